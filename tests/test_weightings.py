"""Properties that every weighting has."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.distributed as dist
from processes import told_by_two

from mtlfast.weighting import (
    DynamicWeightAverage,
    Fixed,
    GeometricMean,
    RandomWeights,
    Uncertainty,
    ValidationLossTrend,
)

WEIGHTINGS = {
    "Fixed": lambda: Fixed([1.0, 0.5, 2.0]),
    "ValidationLossTrend": lambda: ValidationLossTrend(3, 2, momentum=0.3),
    "DynamicWeightAverage": lambda: DynamicWeightAverage(3, 2, temperature=0.7),
    "Uncertainty": lambda: Uncertainty(3),
    "RandomWeights": lambda: RandomWeights(3, seed=4),
    "GeometricMean": lambda: GeometricMean(3),
}
BATCHES = torch.rand(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
COUNTS = torch.tensor([[3, 1, 2], [1, 4, 1], [2, 2, 5]]).repeat(3, 1)
each_weighting = pytest.mark.parametrize("name", WEIGHTINGS)


def make(name):
    return WEIGHTINGS[name]().double()


def state(weighting):
    return copy.deepcopy(weighting.state_dict())


def same(one, other, tolerance=0.0):
    for name, tensor in one.items():
        options = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
        torch.testing.assert_close(tensor, other[name], **options)
    return one.keys() == other.keys()


def train(weighting, losses, counts=None):
    """One step of anyone's loop: weight data, the total, and gradients of losses and parameters."""
    losses = losses.clone().requires_grad_()
    weighting.observe(losses, counts)
    total = weighting(losses, counts)
    parameters = list(weighting.parameters())
    grads = torch.autograd.grad(total, [losses, *parameters])
    with torch.no_grad():
        for parameter, grad in zip(parameters, grads[1:], strict=True):
            parameter -= 0.1 * grad
    return total.detach(), *grads


@each_weighting
def test_forward_is_combine_and_in_training_mode_then_advance(name):
    one, other = make(name), make(name)
    for losses, counts in zip(BATCHES, COUNTS, strict=True):
        expected = other.combine(losses, counts)
        other.advance(losses, counts)
        assert torch.equal(one(losses, counts), expected)
        assert same(one.state_dict(), other.state_dict())
    before = state(one.eval())
    one(BATCHES[0], COUNTS[0])
    assert same(before, one.state_dict())


@each_weighting
def test_combine_has_no_side_effect(name):
    weighting = make(name)
    for losses, counts in zip(BATCHES, COUNTS, strict=True):
        before = state(weighting)
        first, second = weighting.combine(losses, counts), weighting.combine(losses, counts)
        assert torch.equal(first, second) and same(before, weighting.state_dict())
        train(weighting, losses, counts)


@each_weighting
def test_changes_between_forward_and_backward_do_not_disturb_the_gradient(name):
    weighting = make(name)
    for losses, counts in zip(BATCHES, COUNTS, strict=True):
        leaf = losses.clone().requires_grad_()
        (expected,) = torch.autograd.grad(weighting.combine(leaf, counts), leaf)
        total = weighting(leaf, counts)
        weighting.observe(losses.flip(0), counts)
        weighting.advance(losses.flip(0), counts)
        assert torch.equal(torch.autograd.grad(total, leaf)[0], expected)


@each_weighting
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf])
def test_what_the_loss_of_a_task_without_labels_holds_makes_no_difference(name, bad):
    one, other = make(name), make(name)
    for number, (losses, counts) in enumerate(zip(BATCHES, COUNTS, strict=True)):
        counts = counts.clone()
        counts[1] *= number % 3 == 0
        spoilt = losses if counts[1] else torch.where(torch.arange(3) == 1, bad, losses)
        got, expected = train(one, spoilt, counts), train(other, losses, counts)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        assert all(tensor.isfinite().all() for tensor in got)
        assert counts[1] or not any(grad[1] for grad in got[1:])
        assert same(one.state_dict(), other.state_dict())


@each_weighting
def test_a_task_that_never_has_labels_keeps_its_weight(name):
    weighting = make(name)
    before = weighting.weights.clone()
    for losses, counts in zip(BATCHES, COUNTS, strict=True):
        train(weighting, losses, counts * torch.tensor([1, 0, 1]))
    assert name == "RandomWeights" or weighting.weights[1] == before[1]
    assert name == "Fixed" or weighting.weights[0] != before[0]


@each_weighting
def test_without_any_labels_the_total_and_its_gradient_are_0(name):
    weighting, nothing = make(name), torch.zeros(3, dtype=torch.int64)
    for losses in (BATCHES[0], torch.full_like(BATCHES[0], math.nan)):
        total, *grads = train(weighting, losses, nothing)
        assert total == 0 and not any(grad.any() for grad in grads)
    assert all(tensor.isfinite().all() for tensor in [weighting.weights, *weighting.parameters()])


@each_weighting
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_task_that_is_not_finite_does_not_spoil_the_weights_of_the_others(name, bad):
    weighting = make(name)
    for number, losses in enumerate(BATCHES):
        losses = torch.where((torch.arange(3) == 1) & (number == 3), bad, losses)
        train(weighting, losses)
        rest = [weighting.weights, *weighting.parameters()]
        assert all(tensor[[0, 2]].isfinite().all() for tensor in rest)
        assert name == "Uncertainty" or weighting.weights.isfinite().all()


@each_weighting
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_restart_makes_no_difference(name, steps):
    whole, first, second = make(name), make(name), make(name)
    if name == "RandomWeights":
        second = RandomWeights(3, seed=9).double()
    for weighting, rows in ((whole, BATCHES), (first, BATCHES[:steps])):
        for losses in rows:
            train(weighting, losses)
    second.load_state_dict(state(first))
    for losses in BATCHES[steps:]:
        train(second, losses)
    assert same(whole.state_dict(), second.state_dict())


@each_weighting
def test_memory_is_of_order_T_and_nothing_is_remembered_elsewhere(name):
    weighting = make(name)
    size = sum(tensor.numel() for tensor in weighting.state_dict().values())
    attributes = {k: v for k, v in vars(weighting).items() if not k.startswith("_")}
    for losses in BATCHES:
        train(weighting, losses)
    assert size == sum(tensor.numel() for tensor in weighting.state_dict().values()) <= 4 * 3 + 2
    assert attributes == {k: v for k, v in vars(weighting).items() if not k.startswith("_")}
    assert not any(buffer.requires_grad for buffer in weighting.buffers())


@each_weighting
def test_no_global_random_number_is_used(name):
    before = torch.get_rng_state()
    train(make(name), BATCHES[0])
    assert torch.equal(before, torch.get_rng_state())


@each_weighting
def test_the_device_is_never_asked_for_a_number(name):
    weighting = make(name).to("meta")  # a meta tensor has no number to give
    losses = torch.ones(3, device="meta", requires_grad=True)
    for counts in (None, torch.ones(3, device="meta", dtype=torch.int64)):
        weighting.observe(losses, counts)
        weighting.advance(losses, counts)
        assert weighting(losses, counts).shape == ()


@each_weighting
@pytest.mark.parametrize("counts", [None, torch.tensor([2, 0, 1])])
def test_gradients_are_those_of_the_formula(name, counts):
    weighting = make(name)
    parameters = [p.add_(0.3) for p in weighting.requires_grad_(False).parameters()]
    leaves = [tensor.clone().requires_grad_() for tensor in (BATCHES[0], *parameters)]

    def total(losses, *values):
        names = [name for name, _ in weighting.named_parameters()]
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(weighting.eval(), given, (losses, counts))

    assert torch.autograd.gradcheck(total, leaves)
    assert torch.autograd.gradgradcheck(total, leaves)


@each_weighting
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_total_has_the_dtype_of_the_losses(name, dtype):
    weighting = WEIGHTINGS[name]()
    for losses, counts in zip(BATCHES, COUNTS, strict=True):
        leaf = losses.to(dtype).requires_grad_()
        expected = weighting.combine(leaf.detach().float(), counts)
        total = weighting(leaf, counts)
        total.backward()
        assert total.dtype == leaf.grad.dtype == dtype and leaf.grad.isfinite().all()
        error = abs(total.item() - expected.item())
        assert error <= 4 * max(torch.finfo(dtype).eps, 1e-7) * abs(expected.item())
        weighting.observe(leaf, counts)
    assert weighting.weights.dtype == torch.float32


@each_weighting
def test_linear_says_whether_totals_of_parts_add_up(name):
    weighting = make(name)
    train(weighting, BATCHES[0])
    whole = weighting.combine(BATCHES[0] + BATCHES[1])
    parts = weighting.combine(BATCHES[0]) + weighting.combine(BATCHES[1])
    assert weighting.linear == (name not in ("Uncertainty", "GeometricMean"))
    assert weighting.linear == torch.allclose(whole, parts, rtol=1e-12)
    assert weighting.observes == (name == "ValidationLossTrend")


@each_weighting
def test_arguments_of_another_shape_are_refused(name):
    weighting = make(name)
    before = state(weighting)
    for call in (weighting, weighting.combine, weighting.advance, weighting.observe):
        with pytest.raises(ValueError, match=r"losses must have shape \(3,\), one per task; got"):
            call(torch.ones(2))
        with pytest.raises(ValueError, match=r"counts must have shape \(3,\), one per task; got"):
            call(torch.ones(3), torch.ones(1))
    assert same(before, weighting.state_dict())


@each_weighting
def test_the_compiler_takes_a_step_as_one_graph(name):
    one, other = make(name), make(name)

    def step(weighting, losses, counts):
        weighting.observe(losses, counts)
        return weighting(losses, counts)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for losses, counts in zip(BATCHES[:5], COUNTS, strict=False):
        torch.testing.assert_close(compiled(one, losses, counts), step(other, losses, counts))
    assert same(one.state_dict(), other.state_dict(), 1e-12)


def shares():
    """Returns losses and label counts of nine steps in each of two processes, and in one of all."""
    losses, counts = torch.stack((BATCHES, BATCHES.flip(0))), torch.stack((COUNTS, COUNTS.flip(1)))
    counts[:, 2, 0] = 0  # a task without labels anywhere, and in one process
    counts[0, 4, 1] = 0
    losses[counts == 0] = math.nan
    total = counts.sum(0)
    return losses, counts, (losses.nan_to_num() * counts).sum(0) / total, total


def trained(name, losses, counts):
    """Returns what a weighting remembers of its steps."""
    weighting = make(name)
    for step in zip(losses, counts, strict=True):
        weighting.observe(*step)
        weighting(*step)
    return weighting.state_dict()


def work(tell, alone):
    """Trains on this process's shares, and compares with one process that had all."""
    losses, counts, *_ = shares()
    for name, state in torch.load(alone, weights_only=True).items():
        rank = dist.get_rank()
        assert same(state, trained(name, losses[rank], counts[rank]), 1e-12)
        tell(name)


def test_two_processes_remember_what_one_with_all_data_does(tmp_path):
    *_, means, counts = shares()
    torch.save({name: trained(name, means, counts) for name in WEIGHTINGS}, tmp_path / "alone")
    assert told_by_two(work, tmp_path, tmp_path / "alone") == [list(WEIGHTINGS)] * 2
