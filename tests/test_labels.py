"""Which labels are there: NaN, negatives, `ignore_index` and the mask, on every backend alike."""

import math

import pytest
import torch
from backends import each_backend
from cases import LOSSES, REDUCTIONS, Case, Setting, each_loss
from messages import message_of

import mtlfast.functional as MF
from mtlfast.weighting.base import Weighting

pytestmark = pytest.mark.usefixtures("one_thread")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
CLASSES = [loss for loss, row in LOSSES.items() if row.classification]
VALUES = [loss for loss, row in LOSSES.items() if not row.classification]
BAD = [math.nan, math.inf, -math.inf]
OPERANDS = {"weight": "full", "pos_weight": "full", "sample_weight": "row", "task_weight": "task"}

# What stands where a label is missing: its value, the dtypes of targets, and `ignore_index`.
NEGATIVES = {
    "-1": (-1, (*FLOATS, *SIGNED), None),
    "-0.5": (-0.5, FLOATS, None),
    "-100": (-100, (*FLOATS, *SIGNED), None),
    "-inf": (-math.inf, FLOATS, None),
    "the smallest negative": (-1e-7, FLOATS, None),
    "-1, ignored twice": (-1, (torch.float32, torch.int8), -1),
}
IGNORED = {
    "2": (2, (*FLOATS, *SIGNED, torch.uint8), 2),
    "2 for 2.0": (2, (torch.int64, torch.bfloat16), 2.0),
    "255": (255, (torch.uint8, torch.int16, torch.float32), 255),
    "-999": (-999, FLOATS, -999.0),
    "inf": (math.inf, FLOATS, math.inf),
    "NaN": (math.nan, FLOATS, math.nan),
}
MISSING = [(loss, name, *row) for loss in CLASSES for name, row in {**NEGATIVES, **IGNORED}.items()]
MISSING += [(loss, name, *row) for loss in VALUES for name, row in IGNORED.items()]


def computed(backend, dtypes):
    """Returns the dtypes of targets that the backend takes: float64 asks for float64 throughout."""
    return [d for d in dtypes if d != torch.float64 or d in backend.dtypes]


def assert_same(case, given, expected, reduction, backend, **options):
    """Checks values and gradients of all but the target; returns them.

    Bit for bit, but on a GPU, where a mask has kernels of its own, which add in another order.
    """
    fixed = {"reduction": reduction, "backend": backend.name}
    got, wanted = case.results(given, **fixed, **options), case.results(expected, **fixed)
    for key, value in wanted.items():
        eps = torch.finfo(value.dtype).eps if value.is_floating_point() else 0
        if key == "d target":
            continue
        if backend.device == "cpu" or not eps:
            assert torch.equal(got[key], value), (given.target.dtype, fixed, key)
        else:
            close = {"rtol": 4 * eps, "atol": 1e-7, "equal_nan": True}
            torch.testing.assert_close(got[key], value, **close)
    return got


@each_backend
@pytest.mark.parametrize(
    "loss, name, value, dtypes, ignored", MISSING, ids=[f"{m[0]}-{m[1]}" for m in MISSING]
)
def test_a_missing_label_is_missing_in_every_dtype(loss, name, value, dtypes, ignored, backend):
    """As if masked, with label smoothing too: presence is decided before."""
    variants = [v for v, o in enumerate(LOSSES[loss].variants) if v == 0 or "label_smoothing" in o]
    options = {} if ignored is None else {"ignore_index": ignored}
    for turn, dtype in enumerate(computed(backend, dtypes)):
        variant = variants[turn % len(variants)]
        case = Case(loss, variant, Setting("labels", (29, 6), "hard", factors={"weight": "full"}))
        inputs = case.inputs(backend.dtypes[turn % len(backend.dtypes)], backend.device)
        inputs = inputs._replace(target=inputs.target.abs().clamp(max=1).to(dtype))
        gone = torch.rand(29, 6, generator=case.generator()).to(backend.device) < 0.4
        given = inputs._replace(target=inputs.target.masked_fill(gone, value))
        masked = inputs._replace(factors={**inputs.factors, "mask": ~gone})
        assert_same(case, given, masked, REDUCTIONS[turn % 5], backend, **options)
        some = (gone.sum(1) > 2)[:, None]
        both = given._replace(factors={**given.factors, "mask": some})
        masked = masked._replace(factors={**given.factors, "mask": ~gone & some})
        assert_same(case, both, masked, REDUCTIONS[(turn + 2) % 5], backend, **options)


@each_backend
@pytest.mark.parametrize("loss", CLASSES)
def test_minus_zero_and_soft_labels_are_labels(loss, backend):
    target = torch.tensor([[-0.0, 0.0, 1e-7, 1.0, 0.3]], device=backend.device)
    x = torch.ones_like(target)
    for dtype in computed(backend, FLOATS):
        _, tasks = LOSSES[loss].function(
            x, target.to(dtype), reduction="sum", return_tasks=True, backend=backend.name
        )
        assert tasks.count.tolist() == [1] * 5


@each_backend
@pytest.mark.parametrize("loss", VALUES)
def test_regression_counts_negative_numbers_as_torch_does(loss, backend):
    x, target = torch.zeros(4, 3, device=backend.device), torch.full((4, 3), -100.0)
    expected = getattr(torch.nn.functional, loss)(x, target.to(x))
    for dtype in computed(backend, (*FLOATS, *SIGNED)):
        got = LOSSES[loss].function(x, target.to(x.device, dtype), backend=backend.name)
        assert got == expected


@each_backend
@each_loss
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_weights_where_nothing_is_labelled_reach_nothing(loss, bad, backend, some=REDUCTIONS):
    """inf and NaN in every weight of missing elements, and task_weight of tasks without labels."""
    case = Case(loss, 0, Setting("weights", (31, 7), "hard", factors={**OPERANDS, "mask": "full"}))
    for turn, reduction in enumerate(some):
        clean = case.inputs(backend.dtypes[turn % len(backend.dtypes)], backend.device)
        mask = clean.factors["mask"].clone()
        mask[:, [0, 4]], mask[[2, 30]] = False, False
        labelled = {"task_weight": mask.any(0), "sample_weight": mask.any(1)}
        clean = clean._replace(factors={**clean.factors, "mask": mask})
        spoilt = {
            name: weight if name == "mask" else torch.where(labelled.get(name, mask), weight, bad)
            for name, weight in clean.factors.items()
        }
        got = assert_same(case, clean._replace(factors=spoilt), clean, reduction, backend)
        assert got["d task_weight"][[0, 4]].eq(0).all() and got["d input"][~mask].eq(0).all()


@each_backend
@each_loss
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_task_weight_is_not_seen_by_missing_elements_of_a_labelled_task(loss, bad, backend):
    """ "none" gives exactly 0 there; what is labelled gets the weight, bad as it is."""
    x, target = torch.ones(3, 2, device=backend.device, requires_grad=True), torch.zeros(3, 2)
    target[1, 0] = math.nan
    weight = torch.tensor([bad, 2.0], device=backend.device)
    elements = LOSSES[loss].function(
        x, target.to(x.device), reduction="none", task_weight=weight, backend=backend.name
    )
    (grad,) = torch.autograd.grad(elements, x, torch.ones_like(elements))
    for value in (elements, grad):
        assert value[1, 0] == 0 and not value[[0, 2], 0].isfinite().any()
        assert value[:, 1].isfinite().all()


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_combined_loss_leaves_out_weights_of_tasks_without_labels(bad):
    losses = torch.tensor([2.0, 0.0], requires_grad=True)
    total = Weighting(torch.tensor([1.5, bad]))(losses, torch.tensor([4, 0]))
    assert total == 3 and torch.autograd.grad(total, losses)[0].tolist() == [1.5, 0]


@each_loss
def test_ignore_index_works_under_transforms_compile_and_with_any_mask(loss):
    function, classes = LOSSES[loss].function, loss in CLASSES
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    target = torch.arange(24).reshape(6, 4).remainder(3).float()
    mask = torch.tensor([True, False, True, True])
    kept = mask & (target != 2)

    def of(x, target, reduction="sum"):
        return function(x, target, reduction=reduction, ignore_index=2, mask=mask)

    expected = function(x, target.clamp(max=1) if classes else target, reduction="sum", mask=kept)
    grad = torch.func.grad(of)(x, target)
    assert torch.equal(of(x, target), expected) and grad[~kept].eq(0).all() and grad[kept].any()
    rows = torch.vmap(of)(x.unsqueeze(1), target.unsqueeze(1)).sum()
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")(x, target)
    for other in (rows, compiled):
        torch.testing.assert_close(other, expected)
    wide = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: of(x, target.double()), wide)


@each_loss
@pytest.mark.parametrize("bad", [True, "a", [1], torch.ones(()), 1j], ids=repr)
def test_an_ignore_index_that_is_no_number_is_refused(loss, bad, no_work):
    x = torch.zeros(4, 3)
    call = lambda: LOSSES[loss].function(x, x, ignore_index=bad)  # noqa: E731
    message_of(
        call, TypeError, r"ignore_index must be a number; got (True|'a'|list|Tensor|complex)"
    )


def test_multi_hot_labels_count_entries_above_0():
    x = torch.nn.functional.normalize(torch.randn(7, 5), dim=1)
    hot = torch.randint(0, 2, (7, 70))
    for dtype in (torch.int8, torch.int64):
        absent = torch.where(hot == 0, -torch.randint(0, 2, hot.shape), 3 * hot).to(dtype)
        for loss in (MF.batch_triplet_loss, MF.batch_contrastive_loss):
            for backend in ("auto", "reference"):
                expected = loss(x, hot.bool(), backend=backend)
                assert torch.equal(loss(x, absent, backend=backend), expected)


@each_backend
@each_loss
def test_empty_and_odd_inputs_stay_right(loss, backend):
    """No rows, no tasks, no dimensions; whole or as views: 0 with an empty gradient, or a shape."""
    function, device = LOSSES[loss].function, backend.device
    empties = [
        torch.ones(0, 3),
        torch.ones(3, 0),
        torch.ones(8, 3)[:, :0],
        torch.ones(3, 8).t()[:0],
    ]
    for x in (*empties, torch.ones(0), torch.ones(2, 0, 3).transpose(0, 2), torch.ones(())):
        x = x.to(device).requires_grad_()
        for reduction in REDUCTIONS:
            options = {"reduction": reduction, "backend": backend.name, "ignore_index": 1}
            value, tasks = function(x, torch.ones_like(x), return_tasks=True, **options)
            assert value.shape == (x.shape if reduction == "none" else ()) and value.eq(0).all()
            tasks_shape = x.shape[-1:] if x.dim() > 1 else (1,)
            assert tasks.count.shape == tasks.loss.shape == tasks_shape and not tasks.count.any()
            (grad,) = torch.autograd.grad(value, x, torch.ones_like(value))
            assert grad.shape == x.shape and grad.eq(0).all()
