"""csrc/math.h and the functors as other compilers and machines compute them: tests/portable.

A program without torch and Python sweeps them against libm and the formulas in long double.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CXX = shlex.split(os.environ.get("CXX", "c++"))
ARM = ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64")
# The options that setup.py compiles the native part with.
OPTIONS = " ".join(
    re.findall(r"(?:cxx = \[\*common, \*host, |paths = \[)(.*)\]", (ROOT / "setup.py").read_text())
)
VECTORS = r"\tf(?:mla|mls|mul|add|sub|abd)\s+v\d+\.(?:4s|2d)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which(CXX[0]), reason="no C++ compiler"),
]


def build(folder, *compiler, csrc=ROOT / "csrc"):
    """Compiles the program and returns its path."""
    command = [*compiler, "-O3", "-std=c++20", *re.findall(r'"(.*?)"', OPTIONS), "-Wno-psabi"]
    command += [f"-iquote{csrc}", ROOT / "tests/portable/numerics.cpp", "-o", folder / "numerics"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "numerics"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.count("\n") > 100, done.stderr
    return done


@pytest.mark.parametrize("target", [[], ["-march=native"]], ids=["default", "native"])
def test_numerics_keep_their_bounds_on_this_machine(target, tmp_path):
    done = run(build(tmp_path, *CXX, *target))
    assert done.returncode == 0, done.stdout


def test_a_wrong_digit_is_found(tmp_path):
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    header = tmp_path / "csrc/math.h"
    right = header.read_text()
    wrong = right.replace("9.99999821e-1f", "9.99992821e-1f")  # of log1p_unit
    assert wrong != right
    header.write_text(wrong)
    done = run(build(tmp_path, *CXX, csrc=tmp_path / "csrc"))
    failed = {line.split("  ")[0] for line in done.stdout.splitlines() if "FAILED" in line}
    assert done.returncode == 1
    assert failed >= {"log1p_unit", "softplus", "binary_cross_entropy_with_logits value float"}


@pytest.mark.skipif(not all(map(shutil.which, ARM)), reason=f"one of {', '.join(ARM)} is missing")
def test_numerics_keep_their_bounds_on_arm_in_loops_of_vectors(tmp_path):
    compiler, disassembler, emulator = ARM
    program = build(tmp_path, compiler, "-static")
    done = run(emulator, program, "1000")
    assert done.returncode == 0, done.stdout
    listing = subprocess.run(
        [disassembler, "-d", "-C", program], capture_output=True, text=True, check=True
    ).stdout
    loops = re.findall(r"<(void mtlfast::loop_of_.*)>:\n((?:.+\n)+)", listing)
    assert len(loops) > 20
    assert not [name for name, code in loops if not re.search(VECTORS, code)]
