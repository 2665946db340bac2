"""The Triton kernels in Triton's interpreter, on the CPU: run by test_triton.py in a process of its
own, because TRITON_INTERPRET must be set before the kernels are imported.
"""

import mtlfast.kernels.pointwise as kernels
import mtlfast.kernels.rows as rows
import numpy
import pytest
import torch
import triton.runtime.interpreter as interpreter
from backends import assert_accurate
from cases import CASES, LOSSES, PLAIN, REDUCTIONS, Case, cases
from functorch.compile import make_boxed_func
from row_cases import ROW_CASES, ROW_LOSSES
from torch._dynamo.backends.common import aot_autograd

from mtlfast.ops import reference

# Ten microseconds an element: every case once, its reductions and dtypes dealt out in turn.
# Each table by itself, so that a new case of one changes nothing in the other. Dealt otherwise, a
# few rows need more than _SLACK: where distances of 100 differ by 1, float32 holds an ulp of 100.
_DEALT = [
    turn
    for table, first in ((CASES, 0), (ROW_CASES, 1))
    for turn in enumerate((c for c in table if c.setting.name != "many_rows"), first)
]
each_dealt_case = pytest.mark.parametrize("turn, case", _DEALT, ids=[str(c) for _, c in _DEALT])


def _rounded_once(function):
    """Returns an interpreter's operation that computes `function` in float64, then rounds."""

    def compute(builder, *operands):
        exact = function(*(operand.data.astype(numpy.float64) for operand in operands))
        first = operands[0]
        return interpreter.TensorHandle(exact.astype(first.data.dtype), first.dtype.scalar)

    return compute


# numpy's own float32 exp and log may be 4 units in the last place off, most of what the accuracy
# rule grants a whole loss where plain PyTorch happens to be exact.
interpreter.InterpreterBuilder.create_exp = _rounded_once(numpy.exp)
interpreter.InterpreterBuilder.create_log = _rounded_once(numpy.log)
interpreter.InterpreterBuilder.create_fma = _rounded_once(lambda x, y, z: x * y + z)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# Multiples of eps where the strict rule grants one, and plain PyTorch happens to be exact. The
# exponent of the asymmetric loss, 4 by default, multiplies the relative error of a float32 sigmoid,
# which is why csrc/cpu evaluates it in float64, as it does the rows: of those, 7 cases of 3 or 8
# elements in a row need up to 2.4 eps, where a difference of distances or what is left of a
# gradient without its radial part is small. The smooth L1 of 1e4s rounds its sums.
_SLACK = {"asymmetric_loss": 3, "smooth_l1_loss": 1.5, **dict.fromkeys(ROW_LOSSES, 3)}


def _accurate(what, case, inputs, reduction):
    compute = getattr(case, what)
    got = compute(inputs, reduction=reduction, backend="triton")
    plain = compute(inputs, reduction=reduction, backend="reference")
    exact = compute(inputs.double(), reduction=reduction, backend="reference")
    for name, value in got.items():
        if value.is_floating_point():
            slack = _SLACK.get(case.loss, 1)
            assert_accurate(f"{what} {name} {reduction}", value, plain[name], exact[name], slack)
        else:
            assert torch.equal(value, exact[name])


@each_dealt_case
def test_values_and_gradients_match_float64(case, turn):
    inputs = case.inputs(_DTYPES[turn % 3])
    for what, shift in (("values", 0), ("gradients", 2))[: 1 if case.SIGNS_TIE else 2]:
        reductions = case.REDUCTIONS
        _accurate(what, case, inputs, reductions[(turn + shift) % len(reductions)])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_reduction_matches_float64(loss, reduction):
    for case in cases("everything", "int8"):
        if case.loss == loss:
            _accurate("values", case, case.inputs(torch.float32), reduction)
            _accurate("gradients", case, case.inputs(torch.float32), reduction)


@pytest.mark.parametrize(
    "rows, tasks", [(2111, 1), (431, 5), (171, 12), (53, 40), (61, 257), (3, 4097)]
)
@pytest.mark.parametrize("reduction", ["none", "mean", "taskmean"])
def test_outputs_match_the_reference(rows, tasks, reduction):
    """Whole and broken super-rows, several splits and tiles, folded and unfolded partial sums."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, tasks, generator=generator)
    target = torch.randint(-1, 2, (rows, tasks), generator=generator).to(torch.int8)
    weight = torch.rand(rows, tasks, generator=generator)
    task_weight = torch.rand(tasks, generator=generator)
    for loss, own_weight in (("binary_cross_entropy_with_logits", None), ("mse_loss", weight)):
        arguments = (target, None, own_weight, None, None, task_weight, loss, [0.0], reduction)
        got = kernels.pointwise_forward(logits, *arguments)
        wide = (
            a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
            for a in arguments
        )
        exact = reference.pointwise(logits.double(), *wide)
        plain = reference.pointwise(logits, *arguments)
        for name, *values in zip(
            ("loss", "task_loss", "count", "denominator"), got, plain, exact, strict=True
        ):
            if name == "count":
                assert torch.equal(values[0], values[2])
            else:
                assert_accurate(f"{loss} {name}", *values)


def test_rows_of_any_strides_give_the_same():
    """Kernels take three strides: the first rows', the second's and that of all others."""
    make = torch.Generator().manual_seed(0)
    wide = [torch.randn(5, 8 * k, generator=make)[:, :8] for k in range(1, 6)]
    wide[3] = wide[3][:1].expand(5, 8)
    params = ("hierarchical_triplet_loss", [1.0, 0.9, 0.3, 0.1], "mean")
    factors = (None,) * 5
    for some in (range(5), (1, 3)):
        found = []
        for given in (wide, [row.contiguous() for row in wide]):
            value, denominator = rows.rows_forward(given, *factors, *params)
            upstream = torch.ones_like(value)
            backward = (upstream, given, *factors, denominator, *params)
            found.append([value, *rows.rows_backward(*backward, list(some))])
        assert value > 0 and len(found[0]) == 1 + len(some)
        assert all(map(torch.equal, *found))
        _, *expected = found[0]
        if len(some) == 5:
            everyone = expected
        else:
            assert all(map(torch.equal, expected, [everyone[k] for k in some]))


def test_results_repeat_bit_for_bit():
    case = Case("sigmoid_focal_loss", 3, PLAIN)
    inputs = case.inputs(torch.float32)
    first, second = (case.values(inputs, reduction="taskmean", backend="triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("loss", LOSSES)
def test_ops_pass_opcheck(loss):
    case = cases("everything")[list(LOSSES).index(loss)]
    inputs = case.inputs(torch.float32)
    params = [0.0] * kernels.POINTWISE[loss].params
    arguments = (
        inputs.logits,
        inputs.target,
        None,
        None,
        None,
        None,
        inputs.factors["task_weight"],
    )
    for reduction in ("none", "mean"):
        settings = (loss, params, reduction)
        torch.library.opcheck(kernels.pointwise_forward, (*arguments, *settings))
        value, task_loss, count, denominator = kernels.pointwise_forward(*arguments, *settings)
        given = (torch.ones_like(value), torch.ones_like(task_loss), *arguments, count, denominator)
        torch.library.opcheck(kernels.pointwise_backward, (*given, *settings))


@pytest.mark.parametrize("reduction", ["none", "nonzero"])
def test_rows_ops_pass_opcheck(reduction):
    anchor, *levels = torch.randn(4, 5, 6)
    settings = ("hierarchical_triplet_loss", [1.0, 0.3, 0.2], reduction)
    arguments = ([anchor, *levels], None, None, torch.rand(5), None, None)
    torch.library.opcheck(rows.rows_forward, (*arguments, *settings))
    value, denominator = rows.rows_forward(*arguments, *settings)
    given = (torch.ones_like(value), *arguments, denominator, *settings, [0, 2])
    torch.library.opcheck(rows.rows_backward, given)


@pytest.mark.parametrize("tensors, width", [(32, 9), (3, 8200)])
def test_long_lists_and_long_rows_match_float64(tensors, width):
    """More tensors than are held at once, and rows longer than a block."""
    inputs = [torch.randn(3, width, requires_grad=True) for _ in range(tensors)]
    factors = (None, None, torch.rand(3), None, None)
    settings = ("hierarchical_triplet_loss", [0.0, *[0.1] * (tensors - 2)], "mean")
    value, denominator = rows.rows_forward(inputs, *factors, *settings)
    upstream = torch.tensor(2.0)
    wanted = list(range(tensors))
    found = rows.rows_backward(upstream, inputs, *factors, denominator, *settings, wanted)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    results = []
    for given in (inputs, exact):
        loss, _ = reference.rows(given, *factors, *settings)
        results.append([loss.detach(), *torch.autograd.grad(loss, given, upstream.to(loss))])
    for name, *values in zip(["loss", *wanted], [value, *found], *results, strict=True):
        assert_accurate(str(name), *values)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_graphs_hold_the_ops():
    seen = []

    def remember(module, _):
        seen.extend(str(node.target) for node in module.graph.nodes)
        return make_boxed_func(module.forward)

    case = cases("int8")[0]
    inputs = case.inputs(torch.float32)
    inputs.logits.requires_grad_()
    backend = aot_autograd(fw_compiler=remember, bw_compiler=remember)
    for dynamic in (False, True):
        torch._dynamo.reset()
        seen.clear()
        compiled = torch.compile(
            case.row.function, fullgraph=True, dynamic=dynamic, backend=backend
        )
        loss = compiled(inputs.logits, inputs.target, backend="triton")
        (grad,) = torch.autograd.grad(loss, inputs.logits)
        for op in ("forward", "backward"):
            assert f"mtlfast_triton.pointwise_{op}.default" in seen
        eager = case.row.function(inputs.logits, inputs.target, backend="triton")
        assert torch.equal(loss, eager)
        assert torch.equal(grad, torch.autograd.grad(eager, inputs.logits)[0])
