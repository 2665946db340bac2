"""The report on a GPU, without one: its steps, their time and words; a library built before."""

import os
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
native_only = pytest.mark.skipif(native._C is None, reason="this installation has no native part")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: the report would run")
def test_both_stages_say_in_one_summary_what_did_not_run(tmp_path):
    for stage in gpu_report.STAGES:
        command = [sys.executable, SCRIPT, tmp_path, "--stage", stage]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
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


def test_a_step_that_fails_hangs_or_breaks_does_not_stop_the_next(report, tmp_path):
    start = time.monotonic()
    for step in (hangs, fails, breaks, works):
        report.step(step)
    assert time.monotonic() - start < 50
    found = {name: result for name, (result, _) in report.rows.items()}
    assert found["hangs"].startswith("stopped by its time limit; last line: ")
    for child in [line for line in (tmp_path / "tests.log").read_text().split() if line.isdigit()]:
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


def test_tests_that_run_out_of_time_are_counted(report, tmp_path):
    test = tmp_path / "test_two.py"
    test.write_text("import time\ndef test_first(): pass\ndef test_second(): time.sleep(60)\n")

    def waits(report):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-c", os.devnull, test]
        return gpu_steps.outcome(*report.run("waits", command, "tests.log"))

    gpu_steps.LIMITS["waits"] = 18
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


def load(library):
    code = "import mtlfast; print(mtlfast.info()); from mtlfast.ops import native; "
    code += "print(native._C.__file__, mtlfast.available_backends()['native'])"
    environment = {**os.environ, "MTLFAST_LIBRARY": str(library)}
    return subprocess.run(python(code), env=environment, capture_output=True, text=True)


@native_only
def test_a_library_built_before_is_taken_instead_of_the_installed_one(tmp_path):
    library = tmp_path / "elsewhere.so"
    shutil.copy(native._C.__file__, library)
    done = load(library)
    assert done.returncode == 0, done.stderr
    assert f"library     {library} (MTLFAST_LIBRARY)" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{library} {{'cpu'")


CONTENTS = {"missing": None, "empty": b"", "cut": b"\x7fELF and no more", "a folder": None}
TRIED = """
import os, sys, torch
for library in sys.argv[1:]:
    os.environ["MTLFAST_LIBRARY"] = library
    try:
        import mtlfast
    except ImportError as error:
        print(error)
"""


def test_a_library_that_does_not_load_is_told_in_one_line(tmp_path):
    libraries = []
    for name, content in CONTENTS.items():
        libraries.append(tmp_path / f"{name}.so")
        if name == "a folder":
            libraries[-1].mkdir()
        elif content is not None:
            libraries[-1].write_bytes(content)
    done = subprocess.run([*python(TRIED), *libraries], capture_output=True, text=True)
    told = done.stdout.splitlines()
    assert len(told) == len(libraries), done.stdout + done.stderr
    for library, line in zip(libraries, told, strict=True):
        assert line.startswith("MTLFAST_LIBRARY must name a native library of mtlfast")
        assert f"got {library}: " in line and "Unset it" in line
