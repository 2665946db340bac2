"""The Triton backend without a GPU: interpreted on the CPU, and compiled ahead of time.

On a GPU the case table of test_accuracy.py runs it like any other backend.
"""

import itertools

import pytest
import torch

from mtlfast.ops import backends
from mtlfast.ops.catalogue import KERNELS, LOSSES, REDUCTIONS

pytest.importorskip("triton", reason="triton is not installed")

from mtlfast.kernels import (
    finish,
    inbatch,
    launch,
    pointwise,
    pointwise_backward,
    pointwise_forward,
    pointwise_operands,
    pointwise_plan,
    rows,
    rows_kernels,
)
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

FORWARD, BACKWARD = pointwise_forward.forward_kernel, pointwise_backward.backward_kernel
BCE = "binary_cross_entropy_with_logits"

# What Triton's interpreter runs, in one process: starting one takes seconds.
INTERPRETED = [f"tests/{n}_interpreted.py" for n in ("triton", "tails", "near_rows", "inbatch")]

# The tables that are compiled, each row for one target in turn.
PASSES = {"forward": FORWARD, "backward": BACKWARD}
HOT = {"tasks": (5, 40), "kinds": ("fp32 i8", "bf16 i8", "fp32 fp32")}
FINISH = {
    "reduction": ("mean", "taskmean"),
    "size": ((64, 64, True), (1, 2048, True), (16, 128, False)),
}


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


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 12, 40, 100, 257, 1000, 4097, 40000, 40001])
@pytest.mark.parametrize("samples", [1, 100, 70001])
def test_plan_reaches_every_element_and_keeps_loads_wide(samples, tasks, itemsize, sums):
    plan = pointwise_plan.plan(samples, tasks, itemsize, 16, 4, sums)
    assert plan.vector == 16 // itemsize and plan.width == plan.period * tasks
    assert plan.width * (plan.rows - 1) < plan.total == samples * tasks <= plan.width * plan.rows
    assert plan.split_rows * (plan.splits - 1) < plan.rows <= plan.split_rows * plan.splits
    lanes = plan.tiles * 32 * plan.vector
    assert lanes - 32 * plan.vector < plan.width <= lanes
    if tasks <= 4096 or tasks % 16 == 0:
        assert plan.align == plan.vector
        assert plan.width / lanes > (0.66 if samples > 100 else 0.3)


# What differs from the plain case: a row's and a column's operand, one of every element.
OPERANDS = {
    "plain": {},
    "sample_weight": {"sample_weight": pointwise_operands.ROW},
    "pos_weight": {"pos_weight": pointwise_operands.TASK},
    "mask": {"mask": pointwise_operands.FLAT},
    "weights": {"weight": pointwise_operands.FLAT, "sample_weight": pointwise_operands.ROWS},
}


def compile_loss(kernel, loss, logits, labels, target, operands=(), tasks=40):
    """Returns a loss's kernel for the contiguous case, with such operands."""
    factors = ("mask", "weight", "pos_weight", "sample_weight", "grad_loss")
    layouts = tuple(int(dict(operands).get(name, 0)) for name in factors)
    itemsize, record = 4 if logits == "fp32" else 2, LOSSES[loss]
    given = ((4096, tasks), itemsize, labels == "i8", -1)
    params = [2.0 if name.startswith("gamma") else 0.25 for name in record.parameters]
    settings = (record.number, (0.0, *params))
    if kernel is FORWARD:
        call = pointwise.prepared(*given, layouts[:-1], *settings, REDUCTIONS.index("mean"))
    else:
        call = pointwise.prepared(*given, layouts, *settings, None)
    absent = [name for name, layout in zip(factors, layouts, strict=True) if not layout]
    constants = dict.fromkeys(name for name in absent if name != "grad_loss")
    constants |= dict.fromkeys(("elements", "partial_weights", "grad_task_loss"))
    names = [parameter.name for parameter in kernel.params if parameter.is_constexpr]
    constants |= dict(zip(names, call.launch.constants, strict=True))
    constants |= {"OVERLAPS": target == "sm_90"}
    types = dict.fromkeys((*factors, "task_weight", "denominator"), "*fp32")
    types |= dict.fromkeys(("logits", "gradient"), f"*{logits}")
    types |= {"target": f"*{labels}", "partials": "*i64", "count": "*i64", "mask": "*i1"}
    types |= dict.fromkeys(("keep", "shift", "a", "b", "c", "d"), "fp32")
    options = compiler(call.launch.given, target)
    return compile_kernel(kernel, types, constants, TARGETS[target], options)


def compiler(given, target):
    """Returns what the compiler is told on a target."""
    warp = TARGETS[target].warp_size
    return launch.options(given.threads, given.fused, warp, given.registers, given.follows)


@compiled
@pytest.mark.parametrize("loss, kernel, target", dealt(pointwise.POINTWISE, PASSES, every=2))
def test_every_loss_compiles_without_spills(loss, target, kernel, tmp_path):
    binary = compile_loss(PASSES[kernel], loss, "fp32", "i8", target)
    assert_no_spills(binary, target, tmp_path)


@compiled
@pytest.mark.parametrize("tasks, kinds, kernel, target", dealt(*HOT.values(), PASSES, every=2))
def test_hot_kernels_load_16_bytes(tasks, kinds, target, kernel, tmp_path):
    """A batch loads 16 bytes of logits for each of its steps, and stores gradients as wide."""
    logits, labels = kinds.split()
    binary = compile_loss(PASSES[kernel], BCE, logits, labels, target, tasks=tasks)
    assert_no_spills(binary, target, tmp_path)
    steps = 4 if logits == "fp32" else 2
    assert wide(binary, target, "load") >= (2 * steps if labels == "fp32" else steps)
    if kernel == "backward":
        assert wide(binary, target, "store") >= steps


@compiled
@pytest.mark.parametrize("operands, kernel, target", dealt(OPERANDS, PASSES))
def test_operands_cost_their_own_bytes_and_no_spills(operands, kernel, target, tmp_path):
    """An element's operand is read as wide as the logits, a row's once, a column's not at all."""
    binary = compile_loss(PASSES[kernel], BCE, "fp32", "i8", target, OPERANDS[operands].items())
    assert_no_spills(binary, target, tmp_path)
    assert wide(binary, target, "load") >= (8 if operands == "weights" else 4)


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
    """Rows that fit a block are loaded once, 8 elements, or 4 of many tensors, a thread; where two
    are near each other, once more for distances and once for gradients.
    """
    tensors, width, loss, params = ROWS[name]
    chosen = settings(LOSSES[loss].number, params)
    plan = rows.plan(width, 8, tensors, TARGETS[target].warp_size)
    constants = dict.fromkeys(("margin", "scale", "bias", "elements"))
    constants |= rows.constants(chosen, plan, tensors)
    constants |= {} if loss == "contrastive_loss" else {"same": None}
    types = dict.fromkeys(("sample_weight", "grad_loss", "denominator"), "*fp32")
    constants |= {"PLACES": tuple(range(tensors)), "OVERLAPS": target == "sm_90"}
    types |= dict.fromkeys(("rows", "gradients"), (f"*{dtype}",) * tensors)
    types |= {
        "p": "fp32",
        "eps": "fp32",
        "same": "*i1",
        "partials": "*i64",
        "gaps": ("fp32",) * len(chosen.gaps),
    }
    options = compiler(plan.options, target)
    binary = compile_kernel(ROW_PASSES[kernel], types, constants, TARGETS[target], options)
    assert_no_spills(binary, target, tmp_path, most=192)
    if plan.once:
        lane = 4 if dtype == "fp32" else 8
        once = tensors * plan.rows * plan.width // plan.threads // lane
        near = constants["PRODUCTS"]
        loads = once * (1 + near * (1 if kernel == "forward" else 2))
        assert wide(binary, target, "load") == loads
        if kernel == "backward":
            assert wide(binary, target, "store") == once * (1 + near)


@compiled
@pytest.mark.parametrize("reduction, size, target", dealt(*FINISH.values()))
def test_sums_compile_without_spills(reduction, size, target, tmp_path):
    types = dict.fromkeys(("task_weight", "task_loss", "denominator", "loss"), "*fp32")
    types |= {"partials": "*i64", "partial_weights": "*fp32", "count": "*i64", "scalars": "*fp64"}
    columns, parts, alone = size
    constants = {"REDUCTION": reduction, "WEIGHTED": not alone, "COLUMNS": columns}
    constants |= {"PARTS": parts, "BATCH": 4, "OVERLAPS": target == "sm_90"}
    constants |= {"scalars": None} if alone else {}
    options = compiler(launch.Options(columns * parts // 4), target)
    binary = compile_kernel(finish.sums_kernel, types, constants, TARGETS[target], options)
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
