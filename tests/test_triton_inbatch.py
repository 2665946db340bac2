"""The in-batch losses' Triton kernels without a GPU: compiled ahead of time."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from mtlfast.kernels import inbatch_kernels, launch, mining_kernels
from triton_tools import (  # noqa: F401
    TARGETS,
    assert_all_have_a_turn,
    assert_no_spills,
    compile_kernel,
    compiled,
    dealt,
    own_cache,
)

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


def test_every_kernel_is_compiled_on_some_target_and_each_has_some():
    assert_all_have_a_turn(dealt(KERNELS), KERNELS)


@compiled
@pytest.mark.parametrize("name, target", dealt(KERNELS))
def test_kernels_compile_without_spills(name, target, tmp_path):
    kernel, constants = KERNELS[name]
    types = {argument: TYPE.get(argument, "*fp32") for argument in kernel.arg_names}
    binary = compile_kernel(
        kernel,
        types,
        constants,
        TARGETS[target],
        launch.options(128, warp=TARGETS[target].warp_size),
        divisible=("columns", "width", "span"),
    )
    assert_no_spills(binary, target, tmp_path)
