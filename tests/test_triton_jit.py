"""Triton's own JIT compiles whatever the public functions launch: triton_jit.py on each target."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from triton_tools import TARGETS, TESTS

# A spread of every loss's calls, dealt out to the targets; `.ci/triton` makes more of them.
ONE_IN = 3000


@pytest.mark.slow
def test_what_public_functions_launch_compiles_on_each_target(tmp_path):
    program = str(TESTS / "triton_jit.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(TESTS), "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, program, *TARGETS, "--every", str(ONE_IN)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert all(f"{target}: " in run.stdout for target in TARGETS)
    assert run.stdout.count(", 0 calls failed") == len(TARGETS)
