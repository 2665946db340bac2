"""The report on a GPU, without one: its steps, their time and words; a library built before."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gpu_report
import gpu_steps
import pytest
import torch

from mtlfast.ops import native

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benches" / "gpu_report.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: the report would run")
def test_both_stages_say_in_one_summary_what_did_not_run(tmp_path, monkeypatch):
    first, *others = gpu_report.STAGES
    command = [sys.executable, SCRIPT, tmp_path, "--stage", first]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for stage in others:  # as the program does, in a process that has torch already
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path), "--stage", stage])
        gpu_report.main()
    summary = (tmp_path / "summary.md").read_text()
    for step in gpu_steps.LIMITS:
        assert f"| {step} | not run: no CUDA device |" in summary
    assert len(list(tmp_path.iterdir())) <= 8


def test_a_stage_takes_five_minutes_at_most_and_asks_native_before_triton():
    for steps in gpu_report.STAGES.values():
        assert sum(gpu_steps.LIMITS[step.__name__] for step in steps) <= 295
    names = [step.__name__ for step in gpu_report.STAGES["tests"]]
    assert names.index("native") < names.index("triton")
    assert len(gpu_steps.FILES) <= 8


def fails(report):
    return gpu_steps.outcome(*report.run("fails", python("print('so far'); exit(3)"), "tests.log"))


def hangs(report):
    """Leaves a child behind, as pytest's workers would be."""
    code = "import os, time; print(os.fork(), flush=True); time.sleep(60)"
    return gpu_steps.outcome(*report.run("hangs", python(code), "tests.log"))


def breaks(report):
    raise ZeroDivisionError("a bug of the step's own")


def works(report):
    return gpu_steps.outcome(*report.run("works", python("print('well')"), "tests.log"))


def python(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def report(tmp_path, monkeypatch):
    limits = {"fails": 20, "hangs": 14, "breaks": 1, "works": 20}
    monkeypatch.setattr(gpu_steps, "LIMITS", limits)
    made = gpu_steps.Report(tmp_path, {"gpu": "none"}, on_cpu=True)
    yield made
    shutil.rmtree(made.work)


@pytest.fixture
def struck_once(monkeypatch):
    """Lets a step's time limit strike as soon as something is there, however slow the machine."""

    def strike(step, there):
        waiting = [there]

        class Process(subprocess.Popen):
            def wait(self, timeout=None):
                if not waiting:
                    return super().wait(timeout)
                while not waiting[0]():
                    assert self.poll() is None, "it ended before"
                    time.sleep(0.02)
                waiting.clear()
                assert 0 < timeout <= gpu_steps.LIMITS[step] - gpu_steps.LAST_WORDS
                raise subprocess.TimeoutExpired(self.args, timeout)

        monkeypatch.setattr(subprocess, "Popen", Process)

    return strike


def test_a_step_that_fails_hangs_or_breaks_does_not_stop_the_next(report, tmp_path, struck_once):
    log, start = tmp_path / "tests.log", time.monotonic()
    both = re.compile(r"^\d+$", re.M)
    struck_once("hangs", lambda: log.exists() and len(both.findall(log.read_text())) == 2)
    for step in (hangs, fails, breaks, works):
        report.step(step)
    assert time.monotonic() - start < 50
    found = {name: result for name, (result, _) in report.rows.items()}
    assert found["hangs"].startswith("stopped by its time limit; last line: ")
    for child in [line for line in log.read_text().split() if line.isdigit()]:
        assert child == "0" or not running(int(child))
    assert found["fails"] == "failed with status 3: so far"
    assert found["breaks"] == "failed: ZeroDivisionError: a bug of the step's own"
    assert found["works"] == "well"
    summary = (tmp_path / "summary.md").read_text()
    assert all(f"| {name} | {result} |" in summary for name, result in found.items())


def running(process):
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_tests_that_run_out_of_time_are_counted(report, tmp_path, struck_once):
    test, begun = tmp_path / "test_two.py", tmp_path / "begun"
    test.write_text(
        "import pathlib, time\n"
        "def test_first(): pass\n"
        "def test_second():\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        "    time.sleep(60)\n"
    )
    struck_once("waits", begun.exists)

    def waits(report):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-c", os.devnull, test]
        return gpu_steps.outcome(*report.run("waits", command, "tests.log"))

    gpu_steps.LIMITS["waits"] = 60
    report.step(waits)
    assert report.rows["waits"][0].startswith("stopped by its time limit; last line: 1 passed in")


def test_time_that_a_step_leaves_is_the_nexts(report):
    report.step(works)
    left = report.left
    assert left > 1
    report.step(breaks)
    assert report.left > left


def test_failures_are_told_as_they_come(report, tmp_path, monkeypatch):
    """The second test runs until the first one's failure has been told."""
    test, heard, told = tmp_path / "test_two.py", tmp_path / "heard", []
    test.write_text(
        "import pathlib, time\n"
        "def test_first(): assert 1 == 2, 'as written'\n"
        "def test_second():\n"
        f"    while not pathlib.Path({str(heard)!r}).exists(): time.sleep(0.05)\n"
    )

    def tell(line, **_):
        told.append(line)
        heard.touch()

    monkeypatch.setattr(gpu_steps, "print", tell, raising=False)

    def waits(report):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "failures", "-c", os.devnull, test]
        return gpu_steps.outcome(*report.run("waits", command, "tests.log"))

    gpu_steps.LIMITS["waits"] = 60
    report.step(waits)
    assert "1 failed, 1 passed" in report.rows["waits"][0]
    told = [line for line in told if "(call)" in line]  # the summary at the end names it too
    assert len(told) == 1 and "test_first (call): AssertionError: as written" in told[0]


CONTENTS = {"missing": None, "empty": b"", "cut": b"\x7fELF and no more", "a folder": None}
TRIED = """
import os, sys, torch
for library in sys.argv[1:]:
    os.environ["MTLFAST_LIBRARY"] = library
    try:
        import mtlfast
    except ImportError as error:
        print(error)
    else:
        from mtlfast.ops import native
        print(mtlfast.info())
        print(native.PATH, mtlfast.available_backends()["native"])
"""


def test_a_library_built_before_is_taken_or_why_it_does_not_load_is_told_in_one_line(tmp_path):
    libraries, good = [], []
    if native.PATH is not None:
        good.append(shutil.copy(native.PATH, tmp_path / "elsewhere.so"))
    for name, content in CONTENTS.items():
        libraries.append(tmp_path / f"{name}.so")
        if name == "a folder":
            libraries[-1].mkdir()
        elif content is not None:
            libraries[-1].write_bytes(content)
    done = subprocess.run([*python(TRIED), *libraries, *good], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    for library in good:
        assert told[-1].startswith(f"{library} {{'cpu'")
        assert f"library     {library} (MTLFAST_LIBRARY)" in done.stdout
    assert len(told) == len(libraries) if not good else len(told) > len(libraries)
    for library, line in zip(libraries, told, strict=False):
        assert line.startswith("MTLFAST_LIBRARY must name a native library of mtlfast")
        assert f"got {library}: " in line and "Unset it" in line
