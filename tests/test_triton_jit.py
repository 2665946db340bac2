"""Triton's own JIT compiles whatever the public functions launch: triton_jit.py on each target."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from triton_tools import TESTS, each_target

# A spread of every loss's calls, another one for each target; `.ci/triton` makes more of them.
ONE_IN = 700


@each_target
def test_what_public_functions_launch_compiles(target, tmp_path):
    program = str(TESTS / "triton_jit.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(TESTS), "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, program, target, "--every", str(ONE_IN)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert ", 0 calls failed" in run.stdout
