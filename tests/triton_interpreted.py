"""The Triton kernels in Triton's interpreter, on the CPU: run by test_triton.py in a process of its
own, because TRITON_INTERPRET must be set before the kernels are imported.
"""

import zlib
from dataclasses import replace

import numpy
import pytest
import test_labels
import torch
import triton.language as language
import triton.runtime.interpreter as interpreter
from accuracy import FOLDER
from backends import Backend
from cases import CASES, LOSSES, PLAIN, REDUCTIONS, Case, Setting, cases
from functorch.compile import make_boxed_func
from judged import dealt, judge
from row_cases import ROW_CASES, ROW_LOSSES, RowCase, RowSetting
from runnable import numbered
from torch._dynamo.backends.common import aot_autograd

from mtlfast.ops import backends

kernels, rows = map(backends._kernels, ("pointwise", "rows"))
# numpy says so of infinite logits.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid|divide by|over).*:RuntimeWarning")
TRITON = Backend("triton", "cpu")
# Ten microseconds an element: every setting and every variant with at least one of the others, but
# for what is not finite, of which every functor has its own idea; dtypes and reductions in turn.
_EVERYONES = ("not_finite", "not_finite_hard")
_ALL = [c for c in (*CASES, *ROW_CASES) if c.setting.name != "many_rows"]


def _everyones(case):
    """Tells what is not finite: with soft and hard labels, and for further variants with one."""
    kind = case.setting.name
    return kind in _EVERYONES and case.variant in (0, *range(1 + _EVERYONES.index(kind), 99, 2))


def _spread(cases):
    """Returns enough of them that every variant and every setting is met, those of both first."""
    kept, met = [c for c in cases if _everyones(c)], set()
    for new in (2, 1):
        for case in sorted(cases, key=lambda case: zlib.crc32(str(case).encode())):
            kinds = {(case.loss, case.variant), (type(case), case.setting.name)}
            if case.setting.name not in _EVERYONES and len(kinds - met) >= new:
                kept.append(case)
                met |= kinds
    return [case for case in cases if case in kept]


def _shorter(case):
    """Returns the case on few of its rows: what is along a row stays, and so does its name."""
    shape = case.setting.shape
    if FOLDER is not None or len(shape) != 2:
        return case
    shape = min(shape[0], max(2, 400 // max(shape[1], 1))), shape[1]
    return replace(case, setting=replace(case.setting, shape=shape))


_DEALT = [(turn, _shorter(case)) for turn, case in enumerate(_ALL if FOLDER else _spread(_ALL))]
each_dealt_case = pytest.mark.parametrize("turn, case", _DEALT, ids=[str(c) for _, c in _DEALT])


def _rounded_once(function):
    """Returns an interpreter's operation that computes `function` in float64, then rounds."""

    def compute(builder, *operands):
        exact = function(*(operand.data.astype(numpy.float64) for operand in operands))
        first = operands[0]
        return interpreter.TensorHandle(exact.astype(first.data.dtype), first.dtype.scalar)

    return compute


def _exp(x):
    """Returns exp(x) as GPUs form it: as a power of 2, whose exponent is rounded first."""
    log2e = float(numpy.float32(numpy.log2(numpy.e)))
    return numpy.exp2((x * log2e).astype(numpy.float32).astype(numpy.float64))


def _divide(builder, x, y, divide=interpreter.InterpreterBuilder.create_fdiv):
    """Divides, of float32 as GPUs do: x times what 1 / y rounds to, twice rounded."""
    if x.dtype.scalar != language.float32:
        return divide(builder, x, y)
    mantissa, exponent = numpy.frexp(y.data)
    inverse = numpy.ldexp((1 / mantissa).astype(numpy.float64), -exponent)
    quotient = (x.data.astype(numpy.float64) * inverse).astype(numpy.float32)
    usual = numpy.isfinite(y.data) & (y.data != 0)
    return interpreter.TensorHandle(numpy.where(usual, quotient, x.data / y.data), language.float32)


# numpy's own float32 exp and log may be 4 units in the last place off, twice what a GPU's are.
interpreter.InterpreterBuilder.create_exp = _rounded_once(_exp)
interpreter.InterpreterBuilder.create_exp2 = _rounded_once(numpy.exp2)
interpreter.InterpreterBuilder.create_log = _rounded_once(numpy.log)
interpreter.InterpreterBuilder.create_fma = _rounded_once(lambda x, y, z: x * y + z)
interpreter.InterpreterBuilder.create_fdiv = _divide


def _cast(builder, source, kind, cast=interpreter.InterpreterBuilder.cast_impl):
    """Casts, to bfloat16 as a GPU does: the interpreter cuts digits off, which are half an eps."""
    if source.dtype.scalar != language.float32 or kind.scalar != language.bfloat16:
        return cast(builder, source, kind)
    data = torch.from_numpy(numpy.ascontiguousarray(source.data)).bfloat16()
    return interpreter.TensorHandle(data.view(torch.uint16).numpy(), kind.scalar)


interpreter.InterpreterBuilder.cast_impl = _cast


def _launch(kernel, *given, launch=interpreter.GridExecutor.__call__, **named):
    """Launches a kernel, whose functions find triton.language interpreted once it is."""
    _interpreted.clear()
    return launch(kernel, *given, **named)


def _interpret(function, interpret=interpreter._patch_lang):
    """Does what Triton does at each call of each function, a third of the time: once a module."""
    if function.__module__ not in _interpreted:
        _interpreted.add(function.__module__)
        return interpret(function)


_interpreted: set[str] = set()
interpreter.GridExecutor.__call__ = _launch
interpreter._patch_lang = _interpret
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def test_every_variant_every_setting_and_every_dtype_has_its_turn():
    dealt_to = [case for _, case in _DEALT]
    for table, losses in ((CASES, LOSSES), (ROW_CASES, ROW_LOSSES)):
        for kind in (lambda c: (c.loss, c.variant), lambda c: c.setting.name):
            everyone = {kind(c) for c in table if c.setting.name != "many_rows"}
            assert everyone <= {kind(c) for c in dealt_to}
        for loss in losses:
            assert len({turn % 3 for turn, case in _DEALT if case.loss == loss}) == 3, loss


@each_dealt_case
def test_values_and_gradients_match_float64(case, turn):
    for dtype in [_DTYPES[turn % 3]] if FOLDER is None else _DTYPES:
        for reduction in dealt(case, dtype, case.REDUCTIONS):
            judge(case, dtype, TRITON, reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_reduction_matches_float64(loss, reduction):
    """With soft labels and with bytes, in turn."""
    found = [case for case in cases("everything", "int8") if case.loss == loss]
    turn = list(LOSSES).index(loss) + REDUCTIONS.index(reduction)
    for case in found if FOLDER is not None else [found[turn % len(found)]]:
        judge(case, torch.float32, TRITON, reduction)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's: 0 inf, not taken
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_missing_reaches_nothing_here_either(loss):
    backend = Backend("triton", "cpu")
    rows = [row for row in test_labels.MISSING if row[0] == loss]
    turn, few, fewer = list(LOSSES).index(loss), *((5, 4) if FOLDER is not None else (30, 30))
    for _, name, value, dtypes, ignored in rows[turn % len(rows) :: few]:
        test_labels.test_a_missing_label_is_missing_in_every_dtype(
            loss, name, value, dtypes[turn % len(dtypes) :: fewer], ignored, backend
        )
    bad = numpy.inf
    some = REDUCTIONS if FOLDER is not None else REDUCTIONS[turn % len(REDUCTIONS) :: 3]
    test_labels.test_weights_where_nothing_is_labelled_reach_nothing(loss, bad, backend, some)
    test_labels.test_a_task_weight_is_not_seen_by_missing_elements_of_a_labelled_task(
        loss, bad, backend
    )


PLANS = [(2111, 1), (431, 5), (171, 12), (53, 40), (61, 257), (2, 4097)]
PLANNED = [
    (*plan, loss, reduction)
    for i, plan in enumerate(PLANS)
    for j, loss in enumerate(("binary_cross_entropy_with_logits", "mse_loss"))
    for k, reduction in enumerate(("none", "mean", "taskmean"))
    if FOLDER is not None or (i % 2 == j and i % 3 == k)
]


@pytest.mark.parametrize("rows, tasks, loss, reduction", PLANNED)
def test_every_plan_matches_float64(rows, tasks, loss, reduction):
    """Whole and broken super-rows, several splits and tiles, folded and unfolded partial sums."""
    factors = {"weight": "full", "task_weight": "task"}
    setting = Setting(f"{rows}x{tasks}", (rows, tasks), torch.int8, 0.3, factors, rounding=True)
    judge(Case(loss, 0, setting), torch.float32, TRITON, reduction)


def test_rows_of_any_strides_give_the_same():
    """Kernels take three strides: the first rows', the second's and that of all others."""
    make = torch.Generator().manual_seed(0)
    wide = [torch.randn(3, 8 * k, generator=make)[:, :8] for k in range(1, 6)]
    wide[3] = wide[3][:1].expand(3, 8)
    params = numbered("hierarchical_triplet_loss", [1.0, 0.9, 0.3, 0.1], "mean")
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


# The op is the same: a loss is one of its numbers.
@pytest.mark.parametrize("loss", list(LOSSES)[:: 1 if FOLDER is not None else 3])
def test_ops_pass_opcheck(loss):
    case = cases("everything")[list(LOSSES).index(loss)]
    inputs = case.inputs(torch.float32)
    params = [0.0] * (1 + len(kernels.POINTWISE[loss].parameters))
    arguments = (
        inputs.logits,
        inputs.target,
        None,
        None,
        None,
        None,
        inputs.factors["task_weight"],
    )
    settings = numbered(loss, params, ("none", "mean")[list(LOSSES).index(loss) % 2])
    torch.library.opcheck(kernels.pointwise_forward, (*arguments, *settings))
    value, task_loss, count, denominator = kernels.pointwise_forward(*arguments, *settings)
    given = (torch.ones_like(value), torch.ones_like(task_loss), *arguments, count, denominator)
    torch.library.opcheck(kernels.pointwise_backward, (*given, *settings))


@pytest.mark.parametrize("reduction", ["none", "nonzero"])
def test_rows_ops_pass_opcheck(reduction):
    anchor, *levels = torch.randn(4, 5, 6)
    settings = numbered("hierarchical_triplet_loss", [1.0, 0.3, 0.2], reduction)
    arguments = ([anchor, *levels], None, None, torch.rand(5), None, None)
    torch.library.opcheck(rows.rows_forward, (*arguments, *settings))
    value, denominator = rows.rows_forward(*arguments, *settings)
    given = (torch.ones_like(value), *arguments, denominator, *settings, [0, 2])
    torch.library.opcheck(rows.rows_backward, given)


@pytest.mark.parametrize("tensors, width", [(12 if FOLDER is None else 32, 9), (3, 8200)])
def test_long_lists_and_long_rows_match_float64(tensors, width, monkeypatch):
    """More tensors than are held at once, and rows longer than a block."""
    name = "hierarchical_triplet_loss"
    options = {"margins": [0.1 * k for k in range(tensors - 2, 0, -1)], "squared": False}
    row = ROW_LOSSES[name]._replace(rows=tensors, variants=[options])
    monkeypatch.setitem(ROW_LOSSES, name, row)
    case = RowCase(name, 0, RowSetting("long", (2, width), weighted=True))
    judge(case, torch.float32, TRITON, "mean")


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
    for dynamic in (False, True) if FOLDER is not None else (True,):
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
