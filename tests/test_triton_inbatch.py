"""The in-batch losses' Triton kernels without a GPU: interpreted, and compiled ahead of time."""

import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from mtlfast.kernels import inbatch_kernels, mining_kernels  # noqa: E402
from test_triton import (  # noqa: E402, F401
    TARGETS,
    TESTS,
    assert_no_spills,
    compiled,
    each_target,
    own_cache,
    release,
)
from triton.compiler import ASTSource  # noqa: E402


@pytest.mark.skipif(
    release("triton") < (3, 7) and release("numpy") >= (2, 4),
    reason="the interpreter of Triton 3.6 does not run with numpy 2.4 or later",
)
@pytest.mark.slow
def test_kernels_match_float64_in_the_interpreter(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    run = subprocess.run(
        [*command, str(TESTS / "inbatch_interpreted.py")],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


TYPES = {
    "*u8": ("near",),
    "*i32": ("counts", "place", "positives"),
    "*i64": ("x_labels", "y_labels"),
    "*fp64": ("parts", "stats"),
    "fp32": ("margin", "pos_margin", "neg_margin", "factor"),
    "i32": (
        *("first", "rows", "columns", "width", "words", "span", "pairs"),
        *("owners", "others", "own_stride", "other_stride"),
    ),
}  # all else is *fp32
TYPE = {name: kind for kind, names in TYPES.items() for name in names}
MATCH = {"OWN": True, "SHARED": True, "SQUARED": False, "BLOCK": 128, "WIDTH": 16}
TRIPLET = {"SQUARED": False, "POSITIVES": 16, "NEGATIVES": 128}
KERNELS = {
    "distance": (inbatch_kernels.distance_kernel, MATCH | {"parts": None}),
    "distance and sums": (inbatch_kernels.distance_kernel, MATCH | {"counts": None}),
    "weigh": (inbatch_kernels.weigh_kernel, MATCH),
    "near": (
        inbatch_kernels.near_kernel,
        {"ADD": True, "OWNERS": 32, "OTHERS": 32, "WIDTH": 64},
    ),
    "units": (inbatch_kernels.units_kernel, {"WIDTH": 1024}),
    "project": (inbatch_kernels.project_kernel, {"WIDTH": 1024}),
    "partition": (mining_kernels.partition_kernel, MATCH),
    "triplet": (mining_kernels.triplet_kernel, TRIPLET | {"SEMIHARD": False, "SOFT": False}),
    "semihard": (mining_kernels.triplet_kernel, TRIPLET | {"SEMIHARD": True, "SOFT": False}),
    "soft": (mining_kernels.triplet_kernel, TRIPLET | {"SEMIHARD": True, "SOFT": True}),
    "hard": (mining_kernels.hard_kernel, MATCH | {"SOFT": True, "BLOCK": 512}),
}


@compiled
@each_target
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_without_spills(name, target, tmp_path):
    kernel, settings = KERNELS[name]
    constants = {n: settings[n] for n in kernel.arg_names if n in settings}
    signature = {
        n: "constexpr" if n in constants else TYPE.get(n, "*fp32") for n in kernel.arg_names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (n, kind) in enumerate(signature.items())
        if kind.startswith("*") or n in ("columns", "width", "span")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": 128 // TARGETS[target].warp_size}
    binary = triton.compile(source, target=TARGETS[target], options=options)
    assert_no_spills(binary, target, tmp_path)
