"""Inputs at the edge: missing labels over bad logits, nothing labelled, odd upstream gradients."""

import math

import pytest
import torch
from backends import each_backend, each_fused_backend
from cases import LOSSES, REDUCTIONS, Case, Setting, cases, each_loss

import mtlfast.functional as MF

pytestmark = pytest.mark.usefixtures("one_thread")
BAD = [math.nan, math.inf, -math.inf]


def ways_of_missing(target, gone, classification):
    """Yields (target, mask) that hide the elements in `gone`."""
    yield target.masked_fill(gone, math.nan), None
    yield target, ~gone
    yield target.masked_fill(gone, math.nan), ~gone
    if classification:
        for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
            yield target.round().to(dtype).masked_fill(gone, -1), None


@each_backend
@each_loss
def test_missing_elements_add_exactly_nothing_whatever_the_logit(loss, backend):
    case = Case(loss, 0, Setting("missing", (24, 9), "hard", factors={"weight": "full"}))
    for dtype in backend.dtypes:
        clean = case.inputs(dtype, backend.device)
        gone = torch.rand(24, 9, generator=case.generator()).to(backend.device) < 0.4
        bad = torch.tensor(BAD * 72, dtype=dtype, device=backend.device).reshape(24, 9)
        logits = torch.where(gone, bad, clean.logits)
        for target, mask in ways_of_missing(clean.target, gone, case.row.classification):
            factors = clean.factors if mask is None else {**clean.factors, "mask": mask}
            given = clean._replace(target=target, factors=factors)
            for reduction in REDUCTIONS:
                options = {"reduction": reduction, "backend": backend.name}
                found = case.values(given._replace(logits=logits), **options)
                for name, value in case.values(given, **options).items():
                    assert torch.equal(found[name], value), (dtype, reduction, name)
                assert reduction != "none" or found["loss"][gone].eq(0).all()
                grads = case.gradients(given._replace(logits=logits), **options)
                for name, grad in case.gradients(given, **options).items():
                    assert torch.equal(grads[name], grad), (dtype, reduction, name)
                assert grads["input"][gone].eq(0).all()


@each_backend
@each_loss
def test_labelled_nan_is_not_hidden(loss, backend):
    case = Case(loss, 0, Setting("nan_logit", (4, 3), "hard"))
    inputs = case.inputs(torch.float32, backend.device)
    inputs.logits[1, 2] = math.nan
    options = {"reduction": "none", "backend": backend.name}
    elements, grads = case(inputs, **options), case.gradients(inputs, **options)
    expected = torch.zeros(4, 3, dtype=torch.bool)
    expected[1, 2] = True
    assert torch.equal(elements.isnan().cpu(), expected)
    assert not grads["input"].isnan().cpu()[~expected].any()


@each_backend
@each_loss
def test_nothing_labelled_gives_loss_and_gradient_0(loss, backend):
    factors = {"weight": "full", "task_weight": "task", "sample_weight": "row"}
    for shape in ((0, 4), (4, 0), (0, 0), (0,), (2, 0, 3), (5, 3)):
        case = Case(loss, 0, Setting("nothing", shape, "hard", 1.0, factors))
        for dtype in backend.dtypes:
            inputs = case.inputs(dtype, backend.device)
            for reduction in REDUCTIONS:
                options = {"reduction": reduction, "backend": backend.name}
                values = case.values(inputs, **options)
                assert values["loss"].shape == (shape if reduction == "none" else ())
                grads = case.gradients(inputs, **options)
                for name, found in {**values, **grads}.items():
                    assert found.eq(0).all(), (shape, dtype, reduction, name)


@each_fused_backend
@pytest.mark.parametrize("case", cases("plain", "everything"), ids=str)
def test_any_upstream_gradient_is_taken_as_it_is(case, backend):
    inputs = case.inputs(torch.float32, backend.device)
    rows, tasks = inputs.logits.shape
    dense = case.upstream(torch.empty_like(inputs.logits))

    def gradient(upstream, backend, task_upstream=None):
        given = inputs._replace(logits=inputs.logits.detach().requires_grad_())
        values = case.values(given, reduction="none", backend=backend)
        outputs, upstreams = [values["loss"]], [upstream]
        if task_upstream is not None:
            outputs, upstreams = [*outputs, values["task_loss"]], [*upstreams, task_upstream]
        return torch.autograd.grad(outputs, given.logits, upstreams)[0]

    scalar, row = dense[0, 0] + 1, dense[:1]
    for name, upstream in {
        "expanded scalar": scalar.expand(rows, tasks),
        "expanded row": row.expand(rows, tasks),
        "expanded column": dense[:, :1].expand(rows, tasks),
        "transposed": dense.t().contiguous().t(),
        "strided": dense.repeat_interleave(2, 1)[:, ::2],
        "huge": dense * 65536,
        "zero": torch.zeros_like(dense),
    }.items():
        expected = gradient(upstream.contiguous(), "reference")
        got = gradient(upstream, backend.name)
        size = 1 + upstream.abs().max().item()
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * size, msg=name)
        assert name != "zero" or got.eq(0).all()
    tasks_alone = scalar.expand(tasks)
    got, expected = (gradient(dense, b, tasks_alone) for b in (backend.name, "reference"))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@each_fused_backend
@each_loss
def test_scaled_half_precision_gradients_do_not_underflow(loss, backend):
    """What GradScaler does: a normalised gradient stored in float16 would lose a fifth of these."""
    case = Case(loss, 0, Setting("scaled", (25_000, 40), "hard"))
    inputs = case.inputs(torch.float16, backend.device)
    for reduction in ("mean", "taskmean"):

        def gradient(inputs, backend, reduction=reduction):
            logits = inputs.logits.detach().requires_grad_()
            with torch.autocast(logits.device.type, torch.float16):
                loss = case(inputs._replace(logits=logits), reduction=reduction, backend=backend)
            return torch.autograd.grad(65536.0 * loss, logits)[0].double()

        got, exact = gradient(inputs, backend.name), gradient(inputs.double(), "reference")
        normal = exact.abs() > torch.finfo(torch.float16).tiny
        assert ((got - exact).abs() <= 6e-4 * exact.abs())[normal].all()
        assert normal.double().mean() > 0.6 and got[normal].ne(0).all()


@each_fused_backend
@each_loss
def test_tasks_do_not_know_of_each_other(loss, backend):
    """More tasks than a kernel takes side by side, against a third of them at a time."""
    factors = {"mask": "full", "weight": "full", "pos_weight": "task", "task_weight": "task"}
    case = Case(loss, 0, Setting("wide", (21, 5001), torch.int8, 0.3, factors))
    whole = case.inputs(torch.float32, backend.device)
    parts = [
        whole.map(lambda t, i=start: t[..., i : i + 1667].contiguous()) for start in (0, 1667, 3334)
    ]

    def results(inputs, reduction):
        inputs = inputs._replace(logits=inputs.logits.detach().requires_grad_())
        values = case.values(inputs, reduction=reduction, backend=backend.name)
        outputs = [values["loss"], values["task_loss"]]
        upstream = [torch.ones_like(output) for output in outputs]
        return {**values, "grad": torch.autograd.grad(outputs, inputs.logits, upstream)[0]}

    for reduction in ("none", "sum", "batchmean", "taskmean"):
        together, apart = results(whole, reduction), [results(part, reduction) for part in parts]
        for name, found in together.items():
            pieces = [part[name] for part in apart]
            joined = torch.cat(pieces, -1) if found.dim() else torch.stack(pieces).sum()
            torch.testing.assert_close(found, joined, msg=f"{name} {reduction}")


@each_fused_backend
def test_infinite_and_huge_labelled_logits_match_torch(backend):
    logits = torch.tensor([[math.inf, -math.inf, 3e38, -3e38]], device=backend.device)
    for target in (torch.zeros_like(logits), torch.ones_like(logits)):
        x, y = (logits.clone().requires_grad_() for _ in range(2))
        got = MF.binary_cross_entropy_with_logits(x, target, reduction="none", backend=backend.name)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(y, target, reduction="none")
        finite = expected.isfinite()
        torch.testing.assert_close(got[finite], expected[finite])
        assert not got[~finite].isfinite().any()


@each_backend
def test_a_row_of_expanded_weights_counts_as_what_it_holds(backend):
    """Strides (0, 1), and a single row: neither vectors nor one value for each row."""
    x = torch.linspace(-2, 2, 8, device=backend.device)[None].requires_grad_()
    held = torch.linspace(0.5, 3, 8, device=backend.device)
    for name in ("weight", "pos_weight"):
        losses = [
            MF.binary_cross_entropy_with_logits(
                x, torch.ones_like(x), backend=backend.name, **{name: given}
            )
            for given in (held.expand(4, 8)[:1], held[None])
        ]
        gradients = [torch.autograd.grad(loss, x)[0] for loss in losses]
        assert torch.equal(*losses) and torch.equal(*gradients), name


@each_fused_backend
@pytest.mark.parametrize("loss", ["binary_cross_entropy_with_logits", "sigmoid_focal_loss"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float32])
def test_losses_of_the_largest_logits_are_finite(loss, dtype, backend):
    x = torch.tensor([[3e38], [-3e38], [1e-38], [-3e38]], device=backend.device)
    y = torch.tensor([[0], [1], [1], [0]], device=backend.device).to(dtype)
    value = getattr(MF, loss)(x, y, reduction="none", backend=backend.name)
    exact = getattr(MF, loss)(x.double(), y, reduction="none", backend="reference")
    torch.testing.assert_close(value, exact.float())


@each_fused_backend
@pytest.mark.parametrize("loss", [loss for loss, row in LOSSES.items() if row.classification])
def test_integer_targets_equal_floating_ones(loss, backend):
    """To the bit, but where CUDA has kernels of its own for labels of one byte."""
    case = Case(loss, 0, Setting("integers", (65, 7), "hard"))
    inputs = case.inputs(torch.float32, backend.device)
    sided = (backend.name, backend.device) == ("native", "cuda")

    def outputs(given, options):
        gradient = case.gradients(given, **options)["input"]
        return {**case.values(given, **options), "gradient": gradient}

    for reduction in REDUCTIONS:
        options = {"reduction": reduction, "backend": backend.name}
        expected = outputs(inputs, options)
        for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
            found = outputs(inputs._replace(target=inputs.target.to(dtype)), options)
            allowed = 8 * torch.finfo(torch.float32).eps if sided and dtype.itemsize == 1 else 0
            for name, value in found.items():
                apart = (value - expected[name]).abs().max()
                assert apart <= allowed * expected[name].abs().max(), (dtype, reduction, name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_fused_backend
def test_more_than_2_to_the_31_elements_are_indexed_right(backend):
    if backend.device != "cuda":
        pytest.skip("runs on the GPU only")
    rows, tasks = 2**31 // 40 + 1001, 40
    if torch.cuda.mem_get_info()[0] < 8 * rows * tasks:
        pytest.skip("needs 17 GB of free GPU memory")
    logits = torch.zeros(rows, tasks, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    target = torch.full((rows, tasks), -1, dtype=torch.int8, device="cuda")
    target[-1] = 1
    loss, found = MF.binary_cross_entropy_with_logits(
        logits, target, reduction="sum", return_tasks=True, backend=backend.name
    )
    loss.backward()
    assert found.count.eq(1).all()
    torch.testing.assert_close(found.loss, torch.full_like(found.loss, math.log(2)))
    assert logits.grad[-1].eq(-0.5).all() and logits.grad[:-1].count_nonzero() == 0
