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
INBATCH = ("inbatch", "inbatch_use")
FILES = ["accuracy", "composition", "cuda", "edges", "execution", *INBATCH, "rows"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.PATH is None, reason="this installation has no native part"),
]


@functools.cache
def collected():
    """Returns the lines of one collection, which takes long: ids, and what pretend_gpu says."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "pretend_gpu"]
    files = [str(TESTS / f"test_{name}.py") for name in FILES]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", *files],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    return run.stdout.splitlines()


def told(what):
    """Returns the rest of the lines that begin with that word."""
    return [line.removeprefix(f"{what} ") for line in collected() if line.startswith(f"{what} ")]


def asked_at_all():
    return [line for line in collected() if line.startswith("tests/")]


def asked(backend, *files):
    names = tuple(f"tests/test_{name}.py::" for name in files)
    whole = re.compile(rf"[\[-]{backend}[-\]]")
    return [test for test in asked_at_all() if test.startswith(names) and whole.search(test)]


@pytest.mark.parametrize("backend", ["native-cpu", "native-cuda", "triton-cuda", "reference-cuda"])
def test_each_element_by_element_loss_is_asked_of_every_backend(backend):
    for name in ("accuracy", "edges", "execution", "rows"):
        fused = name != "rows" and backend.startswith("reference")
        assert fused or asked(backend, name), name


def test_losses_on_a_whole_batch_are_asked_only_where_they_are():
    """The backends' own reasons decide, so that one that gets them gets their tests too."""
    reasons = dict(line.split(" ", 1) for line in told("reason"))
    assert list(reasons) == ["native", "triton"]
    asked_of = [bool(asked(f"{name}-cuda", *INBATCH)) for name in reasons]
    assert asked_of == [reason == "None" for reason in reasons.values()]
    assert asked("native-cpu", *INBATCH) and asked("reference-cuda", *INBATCH)


def test_half_types_alone_are_asked_of_backends_without_float64():
    for backend in ("native-cuda", "triton-cuda"):
        assert not asked(f"{backend}-float64", "accuracy")
    assert asked("native-cpu-float64", "accuracy")


def test_what_runs_on_a_gpu_is_marked():
    everyone, unmarked = asked_at_all(), told("unmarked")
    assert [test for test in everyone if "cuda" in test.partition("[")[2]]
    assert len(unmarked) > len(everyone) / 10
    assert not [test for test in unmarked if re.search(r"[\[-]\w+-cuda[-\]]", test)]
