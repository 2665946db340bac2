"""Values, counts and gradients against float64, finite differences and golden values."""

import pytest
import torch
from accuracy import FOLDER
from backends import each_backend, each_fused_backend, each_run
from cases import CASES, LOSSES, REDUCTIONS, Case, Setting, cases
from judged import dealt, judge
from row_cases import ROW_CASES, RowCase, RowSetting
from torch.autograd import gradcheck, gradgradcheck

import mtlfast.functional as MF

pytestmark = pytest.mark.usefixtures("one_thread")
NAN = float("nan")
LOGITS = [[2.0, -1.0, 0.5, 3.0], [-2.0, 0.0, 1.0, -3.0]]
TARGET = [[1.0, 0.0, NAN, NAN], [NAN, 1.0, NAN, 0.0]]


@each_run
def test_values_and_gradients_match_float64(case, backend, dtype):
    for reduction in dealt(case, dtype, case.REDUCTIONS):
        judge(case, dtype, backend, reduction)


DIFFERENTIABLE = {
    "mask": "full",
    "weight": "full",
    "pos_weight": "task",
    "task_weight": "task",
    "sample_weight": "row",
}


def small(case, name, shape):
    """Returns the same loss on few elements, with all that may have a gradient."""
    if isinstance(case, RowCase):
        return RowCase(case.loss, case.variant, RowSetting(name, shape, weighted=True))
    return Case(case.loss, case.variant, Setting(name, shape, factors=DIFFERENTIABLE))


each_variant = pytest.mark.parametrize(
    "case", [c for c in (*CASES, *ROW_CASES) if c.setting.name == "plain"], ids=str
)


@each_variant
def test_gradients_match_finite_differences(case):
    """Further variants with a third of the reductions in turn, or for `make accuracy` all."""
    case = small(case, "gradcheck", (4, 3))
    every = case.variant == 0 or FOLDER is not None
    for reduction in case.REDUCTIONS if every else case.REDUCTIONS[case.variant % 3 :][::3]:
        assert gradcheck(*case.function(case.inputs(torch.float64), reduction=reduction))


@each_variant
def test_second_derivatives_match_finite_differences(case):
    """Further variants with one of two reductions in turn, or for `make accuracy` both."""
    case = small(case, "gradgradcheck", (3, 2))
    both = case.REDUCTIONS[0], case.REDUCTIONS[-1]
    every = case.variant == 0 or FOLDER is not None
    for reduction in both if every else both[case.variant % 2 :][:1]:
        assert gradgradcheck(*case.function(case.inputs(torch.float64), reduction=reduction))


@each_backend
@pytest.mark.parametrize(
    "case", cases("nan", "int8", "everything", "deep", "mask_per_row"), ids=str
)
def test_reductions_are_sums_of_the_elements(case, backend):
    inputs = case.inputs(torch.float32, backend.device)
    named = {name: t.double().cpu() for name, t in inputs.named().items()}
    tasks = inputs.logits.shape[-1]

    def run(reduction, inputs=inputs):
        loss, found = case(inputs, reduction=reduction, return_tasks=True, backend=backend.name)
        return loss.double().cpu(), found.loss.double().cpu(), found.count.cpu()

    rest = {name: t for name, t in inputs.factors.items() if name != "task_weight"}
    elements = run("none", inputs._replace(factors=rest))[0].reshape(-1, tasks)
    present = ~named["target"].isnan()
    if case.row.classification and not inputs.target.is_floating_point():
        present = named["target"] >= 0
    if "mask" in named:
        present = present & named["mask"].bool()
    present = present.reshape(-1, tasks)
    assert elements[~present].eq(0).all() and elements[present].ne(0).any()

    count, sums = present.sum(0), elements.sum(0)
    task_weight = named.get("task_weight", torch.ones(tasks, dtype=torch.float64))
    weighted = sums * task_weight
    labelled = count.sum()
    if "weight" in named and case.loss in ("mse_loss", "l1_loss"):
        labelled = named["weight"].expand(inputs.logits.shape).reshape(-1, tasks)[present].sum()
    expected = {
        "sum": weighted.sum(),
        "mean": weighted.sum() / labelled,
        "batchmean": weighted.sum() / len(elements),
        "taskmean": (weighted / count.clamp(min=1)).sum(),
    }
    for reduction, value in expected.items():
        loss, task_loss, found = run(reduction)
        torch.testing.assert_close(loss, value, rtol=1e-6, atol=1e-6, msg=reduction)
        torch.testing.assert_close(task_loss, sums / count.clamp(min=1), rtol=1e-6, atol=1e-6)
        assert torch.equal(found, count)
    weighted = elements * task_weight
    torch.testing.assert_close(run("none")[0].reshape(-1, tasks), weighted, rtol=1e-6, atol=1e-6)


@each_backend
def test_masked_bce_has_its_golden_values(backend):
    logits = torch.tensor(LOGITS, device=backend.device)
    target = torch.tensor(TARGET, device=backend.device)

    def run(reduction, target=target, **options):
        return MF.binary_cross_entropy_with_logits(
            logits, target, reduction=reduction, backend=backend.name, **options
        )

    elements = [[0.12692801, 0.31326169, 0, 0], [0, 0.69314718, 0, 0.04858735]]
    torch.testing.assert_close(run("none").cpu(), torch.tensor(elements))
    integers = target.nan_to_num(-1).to(torch.int8)
    masked = {"target": target.nan_to_num(1), "mask": ~target.isnan()}
    for given in ({}, {"target": integers}, masked):
        for reduction, value in [("batchmean", 0.59096212), ("mean", 0.29548106)]:
            torch.testing.assert_close(run(reduction, **given).cpu(), torch.tensor(value))
        loss, tasks = run("taskmean", return_tasks=True, **given)
        torch.testing.assert_close(loss.cpu(), torch.tensor(0.67871980))
        means = torch.tensor([0.12692801, 1.00640887 / 2, 0, 0.04858735])
        torch.testing.assert_close(tasks.loss.cpu(), means)
        assert tasks.count.tolist() == [1, 2, 0, 1] and tasks.count.dtype == torch.int64


@each_fused_backend
@pytest.mark.parametrize("loss", [loss for loss, row in LOSSES.items() if row.classification])
def test_small_values_keep_their_digits(loss, backend):
    """Beyond the accuracy rule, which is absolute near 0: confident and right is not 0."""
    case = Case(loss, 0, Setting("tail", (20, 1)))
    logits = torch.linspace(1, 20, 20).reshape(-1, 1)
    for sign in (-1, 1):
        target = torch.full_like(logits, float(sign > 0))
        inputs = case.inputs(torch.float32)._replace(logits=sign * logits, target=target)
        for method, name in ((case.values, "loss"), (case.gradients, "input")):
            exact = method(inputs.double(), reduction="sum", backend="reference")[name]
            moved = inputs.map(lambda t: t.to(backend.device))
            got = method(moved, reduction="sum", backend=backend.name)[name].cpu().double()
            torch.testing.assert_close(got, exact, rtol=1e-5, atol=1e-30)


@each_backend
@pytest.mark.parametrize("case", cases("plain", "everything", "int8"), ids=str)
def test_either_output_alone_has_the_right_gradient(case, backend):
    inputs = case.inputs(torch.float32, backend.device)
    if "task_weight" in inputs.factors:  # the per-task losses don't depend on it, whatever it is
        inputs.factors["task_weight"].zero_()

    def gradients(pick, inputs, reduction, backend):
        inputs = inputs.map(lambda t: t.detach().requires_grad_(t.is_floating_point()))
        leaves = [t for t in inputs.named().values() if t.requires_grad]
        values = case.values(inputs, reduction=reduction, backend=backend)
        outputs = [values[name] for name in pick]
        upstream = [case.upstream(output) for output in outputs]
        return torch.autograd.grad(outputs, leaves, upstream, materialize_grads=True)

    for reduction in REDUCTIONS:
        for pick in (["loss"], ["task_loss"], ["loss", "task_loss"]):
            got = gradients(pick, inputs, reduction, backend.name)
            exact = gradients(pick, inputs.double(), reduction, "reference")
            for one, other in zip(got, exact, strict=True):
                torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=2e-6)
