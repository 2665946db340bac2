"""Which tests a machine with a GPU would run: collected here as if there were one."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtlfast.ops import native

TESTS = Path(__file__).parent
PRETENDING = {**os.environ, "PYTHONPATH": str(TESTS)}
INBATCH = ("inbatch", "inbatch_use")
FILES = ["accuracy", "composition", "cuda", "edges", "execution", *INBATCH, "rows"]
pytestmark = pytest.mark.skipif(native._C is None, reason="this installation has no native part")


@functools.cache
def collected():
    """Returns the ids of the tests that run on devices, and of those not marked so."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "pretend_gpu"]
    files = [str(TESTS / f"test_{name}.py") for name in FILES]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", *files],
        cwd=TESTS.parent,
        env=PRETENDING,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    lines = [line for line in run.stdout.splitlines() if "::" in line]
    unmarked = [line.removeprefix("unmarked ") for line in lines if line.startswith("unmarked ")]
    return [line for line in lines if not line.startswith("unmarked ")], unmarked


def asked(backend, *files):
    names = tuple(f"tests/test_{name}.py::" for name in files)
    whole = re.compile(rf"[\[-]{backend}[-\]]")
    return [test for test in collected()[0] if test.startswith(names) and whole.search(test)]


@pytest.mark.parametrize("backend", ["native-cpu", "native-cuda", "triton-cuda", "reference-cuda"])
def test_each_element_by_element_loss_is_asked_of_every_backend(backend):
    for name in ("accuracy", "edges", "execution", "rows"):
        fused = name != "rows" and backend.startswith("reference")
        assert fused or asked(backend, name), name


def test_losses_on_a_whole_batch_are_asked_only_where_they_are():
    """The backends' own reasons decide, so that one that gets them gets their tests too."""
    code = "import pretend_gpu, sys, torch; from mtlfast.ops import backends; " + "; ".join(
        f"print(backends._reason({name!r}, 'cuda', torch.float32, 'inbatch'))"
        for name in ("native", "triton")
    )
    told = subprocess.run([sys.executable, "-c", code], env=PRETENDING, capture_output=True)
    reasons = told.stdout.decode().splitlines()
    assert len(reasons) == 2, told.stderr
    asked_of = [bool(asked(f"{name}-cuda", *INBATCH)) for name in ("native", "triton")]
    assert asked_of == [reason == "None" for reason in reasons]
    assert asked("native-cpu", *INBATCH) and asked("reference-cuda", *INBATCH)


def test_half_types_alone_are_asked_of_backends_without_float64():
    for backend in ("native-cuda", "triton-cuda"):
        assert not asked(f"{backend}-float64", "accuracy")
    assert asked("native-cpu-float64", "accuracy")


def test_what_runs_on_a_gpu_is_marked():
    everyone, unmarked = collected()
    assert [test for test in everyone if "cuda" in test.partition("[")[2]]
    assert len(unmarked) > len(everyone) / 10
    assert not [test for test in unmarked if re.search(r"[\[-]\w+-cuda[-\]]", test)]
