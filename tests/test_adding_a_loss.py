"""The README's steps make a new loss: on a copy, with one of each family, the suite agrees."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accuracy import FOLDER
from loss_files import files_of_losses
from new_pointwise_loss import POINTWISE
from new_rows_loss import ROWS

pytestmark = [pytest.mark.slow, pytest.mark.proof]
NEW = [*POINTWISE, *ROWS]
ROOT = Path(__file__).resolve().parents[1]
# CUDA takes minutes to compile and follows the same functor, so it is left out of the build, as is
# mtlfast._numerics, which no loss needs (-i: in place, the library alone). Optimised, the CPU part
# takes minutes; and as one source it reads torch's headers once.
BUILD = """
import sys
sys.argv = ["setup.py", "-q", "build_ext", "-i"]
source = open("setup.py").read()
parts = '[*set(glob("csrc/*.cpp")).difference(of_numerics), *glob("csrc/cpu/*.cpp")]'
for usual, quick in (("-O3", "-O0"), (parts, '["csrc/cpu/whole.cpp"]')):
    assert source.count(usual) == 1, usual
    source = source.replace(usual, quick)
exec(compile(source, "setup.py", "exec"), {"__name__": "__main__", "__file__": "setup.py"})
"""

needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")), reason="no C++ compiler"
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository with the new loss, not yet built; what is compiled of it stays compiled."""
    copy = tmp_path_factory.mktemp("repository")
    ignore = shutil.ignore_patterns("*.so", "kernels")
    for name in {"benches", "csrc", "mtlfast", "tests"} & {path.name for path in ROOT.iterdir()}:
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    shutil.copytree(ROOT / "kernels", copy / "kernels")
    (copy / "mtlfast/kernels").symlink_to("../kernels")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for name, before, lines in NEW:
        text = (copy / name).read_text()
        at = len(text) if before is None else text.index(before)
        (copy / name).write_text(text[:at] + lines + text[at:])
    return copy


def run(copy, *command, **more):
    """Returns a finished process that sees the copy only."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "MAX_JOBS": "2", **more}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for name in ("MTLFAST_NATIVE", "MTLFAST_LIBRARY"):
        environment.pop(name, None)
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def suite(copy, *arguments, **more):
    """Runs some of the copy's tests."""
    return run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, **more)


def test_a_loss_is_added_in_few_files_which_the_readme_names():
    assert len({name for name, _, _ in POINTWISE}) <= 6
    assert len({name for name, _, _ in ROWS}) <= 7
    steps = (ROOT / "README.md").read_text().partition("## Adding a loss")[2].partition("\n## ")[0]
    told = re.findall(r"`((?:mtlfast|csrc|kernels|tests)/[\w/]+\.(?:py|h))`", steps)
    assert {name for name, _, _ in NEW} <= set(told)


MIRRORS = {
    "csrc/pointwise.h": "test_structure.py::test_every_loss_has_its_native_functor",
    "csrc/rows.h": "test_structure.py::test_every_loss_on_rows_has_its_native_functor",
    "kernels/losses.py": "test_structure.py::test_every_loss_has_its_triton_mirror",
    "kernels/row_losses.py": "test_structure.py::test_every_loss_on_rows_has_its_triton_mirror",
    "mtlfast/modules/pointwise.py": (
        "test_catalogue.py::test_every_public_loss_has_a_record_and_a_module"
    ),
}


def test_suite_fails_while_mirrors_are_missing(copy):
    """Each of these tests reads one of the files, so that all can be tried in one process."""
    finished = {name: (copy / name).read_text() for name in MIRRORS}
    try:
        for name in MIRRORS:
            (copy / name).write_text((ROOT / name).read_text())
        done = suite(copy, *(f"tests/{failing}" for failing in MIRRORS.values()))
    finally:
        for name, text in finished.items():
            (copy / name).write_text(text)
    failed = set(re.findall(r"^FAILED tests/(\S+)", done.stdout, re.M))
    assert failed == set(MIRRORS.values()), done.stdout


@needs_compiler
def test_suite_agrees_once_every_mirror_is_there(copy):
    parts = [*(copy / "csrc").glob("*.cpp"), *(copy / "csrc/cpu").glob("*.cpp")]
    lines = [f'#include "{part}"' for part in parts if not part.name.startswith("numerics")]
    (copy / "csrc/cpu/whole.cpp").write_text("\n".join(lines))
    built = run(copy, "-c", BUILD, MTLFAST_CUDA="0")
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    chosen = "squared_hinge or SquaredHinge or halved_triplet or HalvedTriplet"
    chosen += " or every_loss or every_public_loss or every_option"
    chosen += " or pointwise.py"
    # Kernels take seconds each to compile, and those of the other losses did not change.
    chosen = f"({chosen}) and not (test_every_loss_compiles and not squared_hinge)"
    if FOLDER is None:
        chosen += " and not (half_of_the_memory or bit_for_bit or opcheck or ignore_index_works)"
    done = suite(copy, *files_of_losses(copy / "tests"), "-vv", "-k", chosen)
    assert done.returncode == 0, done.stdout[-6000:]
    match = "values_and_gradients_match_float64"
    for loss in ("squared_hinge_loss", "halved_triplet_loss"):
        assert f"test_{match}[native-cpu-float32-{loss}" in done.stdout


def test_interpreted_kernel_agrees(copy):
    tools = pytest.importorskip("triton_tools")
    if tools.interprets.args[0]:
        pytest.skip(tools.interprets.kwargs["reason"])
    chosen = "squared_hinge and test_every_reduction"
    done = suite(copy, "tests/triton_interpreted.py", "-k", chosen, TRITON_INTERPRET="1")
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout[-6000:]
