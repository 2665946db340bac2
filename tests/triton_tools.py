"""Running the Triton kernels without a GPU: in the interpreter, and compiled ahead of time."""

import itertools
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from accuracy import FOLDER

triton = pytest.importorskip("triton", reason="triton is not installed")

from mtlfast.kernels import launch  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

TESTS = Path(__file__).parent
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


def dealt(*tables, every=1):
    """Returns the tables' product, each row with a target in turn, or for `make accuracy` all.

    Of rows that share all but their place in one table, one in `every` is kept.
    """
    return [
        (*values, target)
        for places in itertools.product(*(range(len(table)) for table in tables))
        for values in [[list(table)[i] for i, table in zip(places, tables, strict=True)]]
        for turn, target in enumerate(TARGETS)
        if FOLDER is not None or (sum(places) % every == 0 and sum(places) % len(TARGETS) == turn)
    ]


def assert_all_have_a_turn(rows, *tables):
    """Checks that all entries of the tables are there, and compiled for each target some."""
    for k, table in enumerate((*tables, TARGETS)):
        assert {row[k] for row in rows} == set(table)


compiled = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter replaces the compiler"
)


def release(package):
    return tuple(int(part) for part in version(package).split(".")[:2])


interprets = pytest.mark.skipif(
    release("triton") < (3, 7) and release("numpy") >= (2, 4),
    reason="the interpreter of Triton 3.6 does not run with numpy 2.4 or later",
)


def assert_interpreted_tests_pass(cache, *tests):
    """Runs files of tests in a process of their own, where Triton interprets the kernels."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    command += [] if FOLDER is None else ["-n", "auto", "--dist", "worksteal"]
    run = subprocess.run(
        [*command, *tests],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compile_kernel(kernel, types, constants, target, options=None, default="i32", divisible=()):
    """Returns what `kernel` compiles to, its pointers and what is `divisible` aligned to 16."""
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}
    types = {name: default for name in kernel.arg_names} | types
    signature = {n: "constexpr" if n in constants else types[n] for n in kernel.arg_names}
    paths = [
        ((i, *tail), kind)
        for i, given in enumerate(signature.values())
        for tail, kind in (
            [((), given)] if isinstance(given, str) else [((j,), k) for j, k in enumerate(given)]
        )
    ]
    whole = [(kernel.arg_names.index(name),) for name in divisible if name in kernel.arg_names]
    aligned = {
        path: [["tt.divisibility", 16]]
        for path, kind in paths
        if kind.startswith("*") or path in whole
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options = options or launch.options(256, warp=target.warp_size)
    return triton.compile(source, target=target, options=options)


def assert_no_spills(binary, target, tmp_path, most=128):
    if target == "gfx942":
        spilled = dict(re.findall(r"\.([vs]gpr)_spill_count:\s+(\d+)", binary.asm["amdgcn"]))
        # Scalar registers are put aside in lanes of a vector register, not in memory.
        assert spilled["vgpr"] == "0" and int(spilled["sgpr"]) <= 16, spilled
        return
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage.stdout)
    assert found is not None, usage.stdout
    registers, stack, local = map(int, found.groups())
    # The assemblers of Triton 3.6 and 3.9 put a register aside to fit one more program on a
    # multiprocessor.
    aside = 0 if (3, 7) <= release("triton") < (3, 9) else 8
    assert local == 0 and stack <= aside, usage.stdout
    assert registers <= most


def wide(binary, target, what):
    """Returns how many 16-byte loads or stores a kernel has."""
    if target == "gfx942":
        return len(re.findall(rf"(?:global|buffer)_{what}_dwordx4", binary.asm["amdgcn"]))
    return len(
        re.findall(rf"{dict(load='ld', store='st')[what]}\.global\S*\.v4\.b32", binary.asm["ptx"])
    )
