"""Properties of the task-weight updaters."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.distributed as dist
from processes import told_by_two

from mtlfast.weighting import Fixed, ValidationLossTrend

GOLDEN = [
    (
        [0.8, 0.6, 0.4, 0.2],
        [0.6, 0.6, 0.3, 0.19],
        [2.5806451612903226, 0, 1.2903225806451613, 0.12903225806451613],
    ),
    ([1.0, 2.0, 4.0], [0.5, 1.0, 2.0], [3 / 7, 6 / 7, 12 / 7]),
]


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def trend(num_tasks, interval=1, **options):
    return ValidationLossTrend(num_tasks, interval, **options).double()


def observed(weighting, *batches):
    for batch in batches:
        weighting.observe(vector(*batch))
    return weighting.weights.tolist()


def published(previous, current):
    """The rule as the paper has it, before cur cancels."""
    change = (current - previous).abs() / current
    weights = change / change.mean() * (current / current.mean())
    return weights / weights.mean()


@pytest.mark.parametrize("previous, current, expected", GOLDEN)
def test_trend_gives_the_golden_weights(previous, current, expected):
    assert observed(trend(len(expected)), previous, current) == pytest.approx(expected, abs=1e-12)


def test_trend_equals_the_published_formula():
    previous, current = torch.rand(2, 9, dtype=torch.float64) + 0.1
    weighting = trend(9)
    weighting.observe(previous)
    weighting.observe(current)
    torch.testing.assert_close(weighting.weights, published(previous, current))


def test_trend_changes_weights_only_at_the_end_of_the_second_and_later_windows():
    weighting, changed = trend(2, interval=3), []
    for count in range(1, 13):
        before = weighting.weights.clone()
        weighting.observe(torch.rand(2, dtype=torch.float64))
        if not torch.equal(before, weighting.weights):
            changed.append(count)
    assert changed == [6, 9, 12]


def test_trend_keeps_the_weights_where_no_task_moved():
    moved = observed(weighting := trend(3), [1, 2, 4], [0.5, 1, 2])
    assert observed(weighting, [0.5, 1, 2]) == moved
    assert observed(trend(3), [0, 0, 0], [0, 0, 0]) == [1, 1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_trend_keeps_the_weight_of_a_task_that_is_not_finite_and_shares_the_rest(bad):
    weighting = trend(3)
    first = observed(weighting, [1, 2, 4], [0.5, 1, 2])
    second = observed(weighting, [0.4, bad, 1.7])
    assert second[1] == first[1]
    assert second[2] / second[0] == pytest.approx(3)
    assert sum(second) == pytest.approx(3)
    third = observed(weighting, [0.4, 1, 1.6])
    assert third[1] == first[1], "the window before was not finite"
    assert observed(weighting, [0.3, 0.8, 1.6])[1] == pytest.approx(2)


def test_trend_keeps_the_weight_of_a_task_without_observations():
    weighting = trend(3)
    weighting.observe(vector(1, 2, 4))
    weighting.observe(vector(0.5, math.nan, 2), torch.tensor([5, 0, 5]))
    assert weighting.weights.tolist() == pytest.approx([0.4, 1, 1.6])


def test_trend_keeps_every_weight_where_all_that_moved_had_none():
    weighting = trend(3)
    assert observed(weighting, [1, 1, 1], [2, 1, 1]) == [3, 0, 0]
    assert observed(weighting, [math.nan, 2, 3]) == [3, 0, 0]


def test_trend_is_unhurt_by_losses_near_the_largest_float():
    weighting = ValidationLossTrend(2, 1)
    weighting.observe(torch.tensor([3e38, 1e38]))
    weighting.observe(torch.tensor([1e38, 3e38]))
    assert weighting.weights.tolist() == [1, 1]


def test_trend_weights_window_means_by_labelled_counts():
    weighting = trend(2, interval=2)
    batches = [([1, 1], [1, 3]), ([3, 2], [3, 1]), ([2, 5], [2, 0]), ([1, 1], [2, 4])]
    for losses, counts in batches:
        weighting.observe(vector(*losses), torch.tensor(counts))
    change = vector(abs(1.5 - 2.5), abs(1 - 1.25))
    torch.testing.assert_close(weighting.weights, 2 * change / change.sum())


def test_trend_mixes_momentum_then_clamps_then_scales_to_mean_1():
    weights = observed(trend(3, momentum=0.5), [1, 2, 4], [0.5, 1, 2])
    assert weights == pytest.approx([(1 + 3 / 7) / 2, (1 + 6 / 7) / 2, (1 + 12 / 7) / 2])
    weights = observed(trend(3, min_weight=0.5, max_weight=1.5), [1, 2, 4], [0.5, 1, 2])
    clamped = vector(0.5, 6 / 7, 1.5)
    assert weights == pytest.approx((clamped * 3 / clamped.sum()).tolist())


def test_trend_survives_a_restart_in_the_middle_of_a_window():
    batches = torch.rand(13, 4)
    whole, first, second = (ValidationLossTrend(4, interval=3, momentum=0.3) for _ in range(3))
    for batch in batches:
        whole.observe(batch)
    for batch in batches[:5]:
        first.observe(batch)
    second.load_state_dict(first.state_dict())
    for batch in batches[5:]:
        second.observe(batch)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers(), strict=True))


def test_trend_remembers_nothing_outside_its_state_and_needs_memory_of_order_T():
    weighting = ValidationLossTrend(40, interval=1000)
    size = sum(tensor.numel() for tensor in weighting.state_dict().values())
    attributes = {k: v for k, v in vars(weighting).items() if not k.startswith("_")}
    weighting.observe(torch.rand(40))
    assert size == sum(tensor.numel() for tensor in weighting.state_dict().values()) <= 4 * 40 + 1
    assert attributes == {k: v for k, v in vars(weighting).items() if not k.startswith("_")}


@pytest.mark.parametrize("weighting", [Fixed([1.0, 2.0]), ValidationLossTrend(2, 1)], ids=repr)
def test_weightings_never_ask_the_device_for_a_number(weighting):
    weighting = weighting.to("meta")  # a meta tensor has no number to give
    losses, counts = torch.ones(2, device="meta"), torch.ones(2, device="meta")
    weighting.observe(losses, counts)
    assert weighting(losses, counts).shape == ()


def test_observing_between_forward_and_backward_does_not_disturb_the_gradient():
    weighting = trend(3)
    weighting.observe(vector(1, 2, 4))
    losses = vector(1, 1, 1).requires_grad_()
    total = weighting(losses)
    weighting.observe(vector(0.5, 1, 2))
    total.backward()
    assert losses.grad.tolist() == [1, 1, 1]


def test_observe_takes_no_part_in_the_graph():
    losses = vector(1, 2, 4).requires_grad_()
    weighting = trend(3)
    weighting.observe(losses)
    assert not any(buffer.requires_grad for buffer in weighting.buffers())


@pytest.mark.parametrize("weighting", [Fixed([1.0, 2.0, 3.0]).double(), trend(3)], ids=repr)
def test_tasks_without_labels_are_left_out_whatever_their_loss_is(weighting):
    losses = vector(1, math.nan, 4).requires_grad_()
    total = weighting(losses, torch.tensor([2, 0, 1]))
    total.backward()
    expected = weighting.weights.clone()
    expected[1] = 0
    assert total.item() == pytest.approx(float(expected[0] + 4 * expected[2]))
    assert torch.equal(losses.grad, expected)


@pytest.mark.parametrize(
    "normalize, weights", [(None, [1, 3]), ("sum", [0.25, 0.75]), ("mean", [0.5, 1.5])]
)
def test_fixed_scales_as_asked(normalize, weights):
    assert Fixed([1, 3], normalize).weights.tolist() == weights


BAD = [
    (lambda: ValidationLossTrend(0), "num_tasks must be at least 1; got 0."),
    (lambda: ValidationLossTrend(2, interval=0), "interval must be at least 1; got 0."),
    (lambda: ValidationLossTrend(2, momentum=1.0), "momentum must lie in"),
    (lambda: ValidationLossTrend(2, momentum=-0.1), "momentum must lie in"),
    (lambda: ValidationLossTrend(2, min_weight=1.5), "min_weight must lie in"),
    (lambda: ValidationLossTrend(2, max_weight=0.5), "max_weight must be at least 1"),
    (lambda: ValidationLossTrend(2, max_weight=math.nan), "max_weight must be at least 1"),
    (lambda: ValidationLossTrend(2).observe(torch.ones(3)), r"losses must have shape \(2,\)"),
    (
        lambda: Fixed([1, 1])(torch.ones(3)),
        r"losses must have shape \(2,\), one per task; got \(3,\)",
    ),
    (lambda: Fixed([1, 1])(torch.ones(2), torch.ones(1)), r"counts must have shape \(2,\)"),
    (lambda: Fixed([]), "weights must be"),
    (lambda: Fixed([0, 0]), "weights must be"),
    (lambda: Fixed([1, -1]), "weights must be"),
    (lambda: Fixed([1, math.nan]), "weights must be"),
    (lambda: Fixed([1, 1], "max"), "normalize must be"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


PARTS = (([[1, 2], [3, 4]], [[1, 3], [3, 1]]), ([[2, 2], [1, 9]], [[1, 5], [1, 0]]))


def observe_own_part(tell):
    rank, weighting = dist.get_rank(), ValidationLossTrend(2, 1).double()
    for losses, counts in PARTS:
        weighting.observe(torch.tensor(losses[rank]).double(), torch.tensor(counts[rank]))
    tell(weighting.weights.tolist())


def test_processes_add_sums_and_counts_before_any_quotient(tmp_path):
    outputs = told_by_two(observe_own_part, tmp_path)
    change = vector(abs(3 / 2 - 10 / 4), abs(10 / 5 - 10 / 4))
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0][0]) == pytest.approx((2 * change / change.sum()).tolist())
