"""A type checker sees what the losses return and which options they take."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtlfast.functional as MF
from mtlfast.functional.typed import Options
from mtlfast.ops.catalogue import KERNELS

ROOT = Path(__file__).resolve().parents[1]


def test_calls_have_the_types_they_return():
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "tests/typed_calls.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("tests/typed_calls.py")]
    assert "checked 1 source file" in done.stdout or not done.returncode, done.stdout
    assert not said and not done.stderr, "\n".join([*said, done.stderr])


def test_every_option_of_a_pointwise_loss_is_known_to_the_type_checker():
    options = {
        name
        for loss in KERNELS["pointwise"]
        for name in inspect.signature(getattr(MF, loss)).parameters
    }
    assert options - {"return_tasks"} == set(Options.__annotations__)
