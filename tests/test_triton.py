"""The Triton backend without a GPU: interpreted on the CPU, and compiled ahead of time.

On a GPU the case table of test_accuracy.py runs it like any other backend.
"""

import itertools

import pytest
import torch

from mtlfast.ops import backends
from mtlfast.ops.catalogue import KERNELS, LOSSES, REDUCTIONS

pytest.importorskip("triton", reason="triton is not installed")

from mtlfast.kernels import finish, inbatch, pointwise, pointwise_kernels, rows, rows_kernels
from mtlfast.kernels.finish import finish_kernel
from mtlfast.kernels.row_losses import ROWS as ROWS_FUNCTORS
from mtlfast.kernels.row_losses import settings
from runnable import numbered
from triton_tools import (  # noqa: F401
    TARGETS,
    assert_all_have_a_turn,
    assert_interpreted_tests_pass,
    assert_no_spills,
    compile_kernel,
    compiled,
    dealt,
    interprets,
    own_cache,
    wide,
)

FORWARD, BACKWARD = pointwise_kernels.forward_kernel, pointwise_kernels.backward_kernel
BCE = "binary_cross_entropy_with_logits"

# What Triton's interpreter runs, in one process: starting one takes seconds.
INTERPRETED = [f"tests/{n}_interpreted.py" for n in ("triton", "tails", "near_rows", "inbatch")]

# The tables that are compiled, each row for one target in turn.
PASSES = {"forward": FORWARD, "backward": BACKWARD}
HOT = {"tasks": (5, 40), "kinds": ("fp32 i8", "bf16 i8", "fp32 fp32")}
FINISH = {"reduction": ("mean", "taskmean"), "size": ((256, 16), (32, 128))}


@interprets
@pytest.mark.slow
@pytest.mark.proof
def test_kernels_match_float64_in_the_interpreter(tmp_path):
    assert_interpreted_tests_pass(tmp_path, *INTERPRETED)


def test_every_loss_has_its_functors_here():
    assert tuple(pointwise.POINTWISE) == KERNELS["pointwise"]
    assert tuple(ROWS_FUNCTORS) == KERNELS["rows"] and KERNELS["inbatch"] == tuple(inbatch.LOSSES)
    assert finish.REDUCTIONS == REDUCTIONS
    for name, functor in pointwise.POINTWISE.items():
        assert functor.value.__name__ == f"{name}_value"
        assert functor.grad.__name__ == f"{name}_grad"


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 12, 40, 100, 257, 1000, 4097, 40000, 40001])
def test_plan_fills_lanes_and_keeps_loads_wide(tasks, itemsize):
    plan = pointwise.plan(tasks, itemsize)
    length = plan.period * tasks
    assert plan.tiles == -(-length // plan.width)
    assert length % plan.align == 0
    if tasks <= 4096 or tasks % 16 == 0:
        assert plan.align >= 16 // itemsize
        assert length / (plan.tiles * plan.width) > 0.66


def compile_loss(kernel, loss, logits, labels, target, tasks=40):
    """Returns a loss's kernel for the contiguous case without operands."""
    functor = pointwise.POINTWISE[loss]
    plan = pointwise.plan(tasks, 4 if logits == "fp32" else 2)
    factors = ("mask", "weight", "pos_weight", "sample_weight")
    constants = dict.fromkeys((*factors, "elements", "grad_task_loss"))
    constants |= dict.fromkeys(("MASK", "WEIGHT", "POS_WEIGHT", "SAMPLE_WEIGHT", "GRAD_LOSS"), 0)
    constants |= {
        "VALUE": functor.value,
        "GRAD": functor.grad,
        "POWER": -1 if functor.exponent is None else 2,
        "CLASSIFICATION": functor.classification,
        "WEIGHTED": False,
        "ALIGN": plan.align,
        "ROWS": plan.rows,
        "WIDTH": plan.width,
    }
    types = dict.fromkeys(("task_weight", "denominator", "grad_loss"), "*fp32")
    types |= dict.fromkeys(("logits", "gradient"), f"*{logits}")
    types |= {"target": f"*{labels}", "scratch": "*i32", "count": "*i64"}
    types |= dict.fromkeys(("keep", "shift", "a", "b", "c", "d"), "fp32")
    return compile_kernel(kernel, types, constants, TARGETS[target])


@compiled
@pytest.mark.parametrize("loss, kernel, target", dealt(pointwise.POINTWISE, PASSES, every=2))
def test_every_loss_compiles_without_spills(loss, target, kernel, tmp_path):
    binary = compile_loss(PASSES[kernel], loss, "fp32", "i8", target)
    assert_no_spills(binary, target, tmp_path)


@compiled
@pytest.mark.parametrize("tasks, kinds, kernel, target", dealt(*HOT.values(), PASSES, every=2))
def test_hot_kernels_load_16_bytes(tasks, kinds, target, kernel, tmp_path):
    """The loop loads `rows` times 16 bytes of logits a thread, and stores gradients as wide."""
    logits, labels = kinds.split()
    binary = compile_loss(PASSES[kernel], BCE, logits, labels, target, tasks)
    assert_no_spills(binary, target, tmp_path)
    blocks = pointwise.plan(tasks, 4 if logits == "fp32" else 2).rows
    assert wide(binary, target, "load") >= (2 * blocks if labels == "fp32" else blocks)
    if kernel == "backward":
        assert wide(binary, target, "store") >= blocks


# Settings of every functor and metric: tensors, elements in a row, name and params.
ROWS = {
    "contrastive": (2, 64, "contrastive_loss", [1.0, 0.0, 0.0]),
    "manhattan": (2, 4096, "contrastive_loss", [1.0, 1.0, 1.0]),
    "cosine": (2, 1000, "contrastive_loss", [1.0, 2.0, 1.0]),
    "triplet": (3, 128, "triplet_margin_loss", [1.0, 2.0, 1e-6, 0.0, 0.0, 0.0, 0.0]),
    "swapped": (3, 512, "triplet_margin_loss", [1.0, 3.0, 1e-6, 1.0, 1.0, 1.0, 1.0]),
    "long": (3, 8200, "triplet_margin_loss", [1.0, 2.0, 1e-6, 1.0, 1.0, 0.0, 0.0]),
    "quadruplet": (4, 768, "hierarchical_triplet_loss", [1.0, 0.3, 0.2]),
    "levels": (7, 256, "hierarchical_triplet_loss", [0.0, *[0.1] * 5]),
}


ROW_PASSES = {"forward": rows_kernels.forward_kernel, "backward": rows_kernels.backward_kernel}
# Either dtype in turn: each kernel and each target meets both.
ROWS_DEALT = [
    (
        name,
        kernel,
        target,
        ("fp32", "bf16")[(list(ROWS).index(name) + list(TARGETS).index(target)) % 2],
    )
    for name, kernel, target in dealt(ROWS, ROW_PASSES, every=2)
]


def test_every_loss_setting_dtype_and_kernel_is_compiled_on_some_target_and_each_has_some():
    assert_all_have_a_turn(dealt(pointwise.POINTWISE, PASSES, every=2), pointwise.POINTWISE, PASSES)
    assert_all_have_a_turn(dealt(*HOT.values(), PASSES, every=2), *HOT.values(), PASSES)
    assert_all_have_a_turn(dealt(*FINISH.values()), *FINISH.values())
    assert_all_have_a_turn([row[:3] for row in ROWS_DEALT], ROWS, ROW_PASSES)
    kinds = [*map(set, zip(*ROWS_DEALT, strict=True))]
    for one, other in itertools.combinations(range(1, 4), 2):
        both = {(row[one], row[other]) for row in ROWS_DEALT}
        assert both == set(itertools.product(kinds[one], kinds[other]))
    assert kinds[3] == {"fp32", "bf16"}


@compiled
@pytest.mark.parametrize("name, kernel, target, dtype", ROWS_DEALT)
def test_rows_load_16_bytes_once_without_spills(name, kernel, target, dtype, tmp_path):
    """Rows that fit a block are loaded once, 8 elements, or 4 of many tensors, a thread."""
    tensors, width, loss, params = ROWS[name]
    chosen, plan = settings(LOSSES[loss].number, params), rows.plan(width, 8, tensors)
    constants = dict.fromkeys(("margin", "scale", "bias", "elements"))
    constants |= rows.constants(chosen, plan, tensors)
    constants |= {} if loss == "contrastive_loss" else {"same": None}
    types = dict.fromkeys(("sample_weight", "grad_loss", "denominator"), "*fp32")
    constants |= {"PLACES": tuple(range(tensors))}
    types |= dict.fromkeys(("rows", "gradients"), (f"*{dtype}",) * tensors)
    types |= {
        "p": "fp32",
        "eps": "fp32",
        "same": "*i1",
        "scratch": "*i32",
        "gaps": ("fp32",) * len(chosen.gaps),
    }
    options = rows.options(plan, TARGETS[target].warp_size)
    binary = compile_kernel(ROW_PASSES[kernel], types, constants, TARGETS[target], options)
    assert_no_spills(binary, target, tmp_path, most=192)
    if plan.once and (tensors < 4 or dtype == "fp32"):
        loads = wide(binary, target, "load")
        assert loads == tensors * plan.rows * plan.width // plan.threads // (
            4 if dtype == "fp32" else 8
        )
        if kernel == "backward":
            assert wide(binary, target, "store") == loads


@compiled
@pytest.mark.parametrize("reduction, size, target", dealt(*FINISH.values()))
def test_finish_compiles_without_spills(reduction, size, target, tmp_path):
    types = dict.fromkeys(("task_weight", "task_loss", "denominator", "loss"), "*fp32")
    types |= {"scratch": "*i32", "count": "*i64", "parts": "*fp64"}
    constants = {"REDUCTION": reduction, "WEIGHTED": True, "ROWS": size[0], "WIDTH": size[1]}
    binary = compile_kernel(finish_kernel, types, constants, TARGETS[target])
    assert_no_spills(binary, target, tmp_path, most=255)  # few programs, each alone


@compiled
def test_ops_are_registered_for_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    backends._kernels("pointwise")

    with FakeTensorMode():
        logits = torch.empty(6, 4, dtype=torch.bfloat16)
        target = torch.empty(6, 4, dtype=torch.int8)
        arguments = (logits, target, None, None, None, None, None)
        for reduction, shape, dtype in (
            ("none", (6, 4), torch.bfloat16),
            ("mean", (), torch.float32),
        ):
            settings = numbered(BCE, [0.0], reduction)
            outputs = pointwise.pointwise_forward(*arguments, *settings)
            assert [tuple(t.shape) for t in outputs] == [shape, (4,), (4,), (4,)]
            assert [t.dtype for t in outputs] == [dtype, torch.float32, torch.int64, torch.float32]
            loss, task_loss, count, denominator = outputs
            grad = pointwise.pointwise_backward(
                loss, task_loss, *arguments, count, denominator, *settings
            )
            assert (grad.shape, grad.dtype) == (logits.shape, logits.dtype)
