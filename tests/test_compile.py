"""The ops under torch.library.opcheck and inside torch.compile's graphs."""

import warnings
from unittest import mock

import pytest
import torch
from accuracy import FOLDER
from cases import LOSSES, Case, Setting, each_loss
from recorder import Recorder, compiled
from row_cases import ROW_CASES, ROW_LOSSES, RowCase, RowSetting
from runnable import numbered

import mtlfast.functional as MF
from mtlfast.ops import backends, catalogue, native

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch.compile does so itself while it traces.
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
]
native_only = pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")
compiles = pytest.mark.skipif(
    not torch._dynamo.is_dynamo_supported(), reason="torch.compile does not run on this Python"
)
FACTORS = {"mask": "full", "weight": "task", "task_weight": "task", "sample_weight": "row"}
EVERYTHING = Setting("composed", (12, 5), "hard", 0.2, FACTORS)


@pytest.fixture
def fresh():
    """Forgets what was compiled before and after."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@native_only
@each_loss
def test_native_ops_pass_opcheck(loss):
    forward = torch.ops.mtlfast.pointwise_forward.default
    backward = torch.ops.mtlfast.pointwise_backward.default
    params = [0.0, *catalogue.LOSSES[loss].pack(catalogue.LOSSES[loss].parameters)]
    turn = list(LOSSES).index(loss)  # the op is the same: a loss is one of its numbers
    dtype, reduction, bare = [
        (torch.float32, "taskmean", False),
        (torch.bfloat16, "none", False),
        (torch.float64, "mean", True),
    ][turn % 3]
    settings = numbered(loss, params, reduction)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    x, y = torch.randn(6, 4).to(dtype), torch.randint(-1, 2, (6, 4), dtype=torch.int8)
    full = torch.rand(6, 4, dtype=compute)
    operands = [y > -5, full, full[:1].expand(6, 4), full[:, :1].expand(6, 4), full[0]]
    given = (x, y, *([None] * 5 if bare else operands))
    torch.library.opcheck(forward, (*given, *settings))
    value, task_loss, *rest = forward(*given, *settings)
    upstreams = (value, task_loss), (value, None), (None, task_loss)
    for upstream in upstreams if FOLDER is not None else [upstreams[(turn + turn // 3) % 3]]:
        torch.library.opcheck(backward, (*upstream, *given, *rest, *settings))


# A loss is one of the op's numbers: each dtype and reduction with some of the variants, in turn.
KINDS = [(torch.float32, "nonzero"), (torch.bfloat16, "none"), (torch.float64, "mean")]
NARROW = [case for case in ROW_CASES if case.setting.name == "narrow"]
OF_ROWS = [(case, *KINDS[turn % 3]) for turn, case in enumerate(NARROW)]
OF_ROWS = OF_ROWS[:: 2 if FOLDER is None else 1]


def as_op_takes(argument):
    """Returns tensors without their history."""
    return argument.detach() if isinstance(argument, torch.Tensor) else argument


@native_only
@pytest.mark.parametrize("case, dtype, reduction", OF_ROWS, ids=str)
def test_native_row_ops_pass_opcheck(case, dtype, reduction):
    inputs, _ = case.leaves(case.inputs(dtype))
    with (
        mock.patch.object(native, "rows_forward", wraps=native.rows_forward) as forward,
        mock.patch.object(native, "rows_backward", wraps=native.rows_backward) as backward,
    ):
        case.gradients(inputs, reduction=reduction, backend="native")
    for op, called in (("rows_forward", forward), ("rows_backward", backward)):
        arguments = torch.utils._pytree.tree_map(as_op_takes, called.call_args.args)
        torch.library.opcheck(getattr(torch.ops.mtlfast, op).default, arguments)


@compiles
@native_only
@pytest.mark.parametrize(
    "loss, dynamic", [*((loss, True) for loss in LOSSES), ("asymmetric_loss", False)]
)
def test_compiled_graphs_hold_our_ops_and_give_eager_numbers(loss, dynamic, fresh):
    case, recorder = Case(loss, 0, EVERYTHING), Recorder()

    def step(inputs, reduction):
        value, tasks = case(inputs, reduction=reduction, return_tasks=True)
        return value.sum() + (2 * tasks.loss).sum(), tasks.count

    quick = compiled(step, recorder, dynamic=dynamic)
    for rows in (12, 31) if dynamic else (12,):
        case = Case(loss, 0, Setting("composed", (rows, 5), "hard", 0.2, FACTORS))
        inputs = case.inputs(torch.float32)
        results = []
        for run in (step, quick):
            leaves = [inputs.logits.clone().requires_grad_(), inputs.factors["task_weight"].clone()]
            leaves[1].requires_grad_()
            factors = {**inputs.factors, "task_weight": leaves[1]}
            value, count = run(inputs._replace(logits=leaves[0], factors=factors), "taskmean")
            results.append((value, count, *torch.autograd.grad(value, leaves)))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
    assert recorder.calls(recorder.forward, "pointwise_forward") == [1]
    assert recorder.calls(recorder.backward, "pointwise_backward") == [1]


@compiles
@native_only
@pytest.mark.parametrize("loss", ROW_LOSSES)
def test_compiled_graphs_hold_our_row_ops(loss, fresh):
    recorder = Recorder()
    any_case = RowCase(loss, 0, RowSetting("composed", (12, 5)))

    def step(inputs):
        return any_case(inputs, reduction="mean")

    quick = compiled(step, recorder, dynamic=True)
    for rows in (12, 31):
        case = RowCase(loss, 0, RowSetting("composed", (rows, 5)))
        inputs, leaves = case.leaves(case.inputs(torch.float32))
        results = [torch.autograd.grad(run(inputs), list(leaves.values())) for run in (step, quick)]
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
    assert recorder.calls(recorder.forward, "rows_forward") == [1]
    assert recorder.calls(recorder.backward, "rows_backward") == [1]


@compiles
@native_only
def test_compiled_loss_without_gradient_is_one_op(fresh):
    recorder = Recorder()
    quick = compiled(MF.binary_cross_entropy_with_logits, recorder)
    x, y = torch.randn(6, 4), torch.rand(6, 4)
    torch.testing.assert_close(quick(x, y), MF.binary_cross_entropy_with_logits(x, y))
    assert recorder.calls(recorder.forward, "pointwise_forward") == [1]
    assert not recorder.backward


@compiles
@native_only
def test_gradients_beyond_the_kernels_compile_too(fresh):
    """The gradient of target, weight or sample_weight comes from the reference."""
    case = Case("binary_cross_entropy_with_logits", 0, EVERYTHING)
    inputs, recorder = case.inputs(torch.float32), Recorder()
    names = ("input", "weight", "task_weight", "sample_weight")
    for reduction in ("none", "mean"):

        def step(inputs, reduction=reduction):
            return case(inputs, reduction=reduction).sum()

        found = []
        for run in (step, compiled(step, recorder)):
            given = inputs.map(lambda t: t.detach().clone())
            leaves = [given.named()[name].requires_grad_() for name in names]
            found.append(torch.autograd.grad(run(given), leaves))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


@compiles
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_graph_is_traced_once_though_no_backend_was_chosen_before(fresh, monkeypatch, backend):
    monkeypatch.setattr(backends, "_chosen", {})
    x, y, labels = torch.randn(6, 4), torch.rand(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])

    def step(x, y):
        mse = MF.mse_loss(x, y, backend=backend)
        triplets = MF.triplet_margin_loss(x, y, x, backend=backend)
        return mse + triplets + MF.batch_triplet_loss(x, labels, backend=backend)

    recorder = Recorder()
    quick = compiled(step, recorder)
    for _ in range(3):
        torch.testing.assert_close(quick(x, y), step(x, y))
        MF.mse_loss(x.double(), y.double())
    assert len(recorder.forward) == 1


@compiles
def test_a_backend_that_cannot_run_says_so_in_a_compiled_function_too(fresh, monkeypatch):
    monkeypatch.setattr(backends, "_chosen", {})
    monkeypatch.setattr(backends, "_TRITON_INSTALLED", False)
    quick = torch.compile(lambda x: MF.mse_loss(x, x, backend="triton"), backend="eager")
    wanted = r"^backend='triton' can't run on cpu: triton is not installed: pip install .*$"
    with pytest.raises(RuntimeError, match=wanted):
        quick(torch.ones(2, 2))


@compiles
@native_only
def test_new_batch_sizes_compile_once_more_and_never_again(fresh):
    recorder = Recorder()
    quick = compiled(MF.binary_cross_entropy_with_logits, recorder)
    for rows in (8, 9, 10, 11, 33, 64, 65):
        x, y = torch.randn(rows, 4, requires_grad=True), torch.rand(rows, 4)
        quick(x, y).backward()
    assert len(recorder.forward) <= 2


@compiles
@pytest.mark.slow
def test_inductor_gives_eager_numbers(fresh):
    pytest.importorskip("torch._inductor")
    linear = torch.nn.Linear(7, 4)
    x = torch.randn(33, 7)
    y = torch.randint(-1, 2, (33, 4), dtype=torch.int8)

    def step(x, y):
        loss, tasks = MF.binary_cross_entropy_with_logits(linear(x), y, return_tasks=True)
        return loss + tasks.loss.sum()

    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what inductor says of this machine
        for run in (step, torch.compile(step, fullgraph=True, dynamic=True)):
            linear.zero_grad()
            loss = run(x, y)
            loss.backward()
            results.append((loss.detach(), linear.weight.grad.clone()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@compiles
@pytest.mark.parametrize("dynamic", [None, True])
def test_transposed_inputs_compile_whole_for_any_number_of_rows(fresh, dynamic):
    recorder = Recorder()
    focal = compiled(MF.sigmoid_focal_loss, recorder, dynamic=dynamic)
    for rows in (3, 4, 5):
        x, y = torch.randn(7, rows).t(), (torch.rand(rows, 7) < 0.5).float()
        torch.testing.assert_close(focal(x, y), MF.sigmoid_focal_loss(x, y))
