"""Properties of the margin updater."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise

import pytest
import torch

from mtlfast import MarginUpdater

# window, interval, warmup
SETTINGS = [(4, 4, 0), (7, 3, 0), (5, 12, 20), (16, 1, 5), (2, 5, 0), (32, 10, 30)]


def errors(threshold, pairs):
    return sum((distance <= threshold) != same for distance, same in pairs)


def best_threshold(pairs):
    """Tries every threshold that the docstring names, one by one."""
    values = sorted({0.0, *(distance for distance, _ in pairs)})
    candidates = [a + (b - a) / 2 for a, b in pairwise(values)] + values[-1:]
    counts = [errors(threshold, pairs) for threshold in candidates]
    best = [t for t, count in zip(candidates, counts, strict=True) if count == min(counts)]
    return best[(len(best) - 1) // 2]


class PairByPair:
    """The rule in plain Python, fed with one pair at a time."""

    def __init__(self, margin, window, interval, *, warmup, min_margin):
        self.margin, self.interval, self.warmup = margin, interval, warmup
        self.min_margin, self.observed, self.pairs = min_margin, 0, deque(maxlen=window)

    def observe(self, distance, same):
        if not math.isfinite(distance):
            return
        self.pairs.append((distance, same))
        self.observed += 1
        both = len({kind for _, kind in self.pairs}) == 2
        if self.observed % self.interval == 0 and self.observed > self.warmup and both:
            self.margin = max(self.min_margin, best_threshold(self.pairs))


def random_pairs(n, *, step=0.05):
    """Returns float64 distances, many of them equal, and flags that go with them now and then."""
    same = torch.rand(n) < 0.5
    distances = torch.rand(n, dtype=torch.float64) + 0.4 * ~same
    return (distances / step).round() * step, same


@pytest.mark.parametrize("seed", range(20))
def test_margin_is_the_best_threshold_over_the_window(seed):
    torch.manual_seed(seed)
    distances, same = random_pairs(25 + seed)
    updater = MarginUpdater(window=25, interval=25 + seed, min_margin=1e-6).double()
    updater.observe(distances, same)
    pairs = list(zip(distances.tolist(), same.tolist(), strict=True))[-25:]
    assert updater.margin.item() == best_threshold(pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_margin_makes_the_least_errors_where_neighbours_have_nothing_between_them(dtype):
    torch.manual_seed(0)
    for _ in range(20):
        distances, same = random_pairs(40, step=2.0**-12)
        distances = 1 + (distances.to(dtype) * 8).round() * torch.finfo(dtype).eps
        updater = MarginUpdater(window=40).to(dtype)
        updater.observe(distances, same)
        pairs = list(zip(distances.tolist(), same.tolist(), strict=True))
        assert errors(updater.margin.item(), pairs) == errors(best_threshold(pairs), pairs)


@pytest.mark.parametrize("sizes", [(1,), (0, 3), (5, 40, 2), (64, 1)], ids=str)
@pytest.mark.parametrize("window, interval, warmup", SETTINGS)
def test_batches_make_no_difference(window, interval, warmup, sizes):
    torch.manual_seed(window)
    options = {"warmup": warmup, "min_margin": 0.3}
    updater = MarginUpdater(1.0, window, interval, **options).double()
    oracle = PairByPair(1.0, window, interval, **options)
    distances, same = random_pairs(150)
    same[40:75] = True  # for a while pairs of one kind only
    distances[::11] = torch.nan
    distances[5::17] = torch.inf
    start = 0
    while start < len(distances):
        for size in sizes:
            batch = slice(start, start + size)
            updater.observe(distances[batch], same[batch])
            for pair in zip(distances[batch].tolist(), same[batch].tolist(), strict=True):
                oracle.observe(*pair)
            assert updater.margin.item() == oracle.margin
            start += size
    held = updater.distances[updater.distances < math.inf]
    assert sorted(held.tolist()) == sorted(distance for distance, _ in oracle.pairs)
    assert updater.observed == oracle.observed == distances.isfinite().sum()


TIES = {
    "separable": ([0.1, 0.3], [0.7, 0.9], 0.5),
    "all wrong": ([0.6, 0.8], [0.2, 0.4], 0.5 * 0.2),  # call every pair different
    "mostly same": ([0.2, 0.3, 0.4, 0.8], [0.1], 0.8),  # call every pair same
    "middle of three": ([0.1, 0.3, 0.5], [0.2, 0.4, 0.6], 0.35),
    "smaller of two": ([0.1, 0.3], [0.2, 0.4], 0.15),
    "equal distances": ([0.5, 0.5, 0.5], [0.5, 0.9], 0.7),
    "zeros": ([0.0, 0.0], [0.0, 0.0], 1e-3),
}


@pytest.mark.parametrize("same, different, expected", TIES.values(), ids=TIES)
def test_ties_are_broken_as_documented(same, different, expected):
    updater = MarginUpdater(window=len(same + different), min_margin=1e-3).double()
    flags = torch.tensor([1] * len(same) + [0] * len(different))
    order = torch.randperm(len(flags))
    updater.observe(torch.tensor(same + different, dtype=torch.float64)[order], flags[order])
    assert updater.margin.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [True, False])
def test_margin_stays_where_all_pairs_are_of_one_kind(kind):
    updater = MarginUpdater(0.7, window=4)
    updater.observe(torch.rand(9), torch.full((9,), kind))
    assert updater.margin == torch.tensor(0.7)


def test_warmup_puts_the_first_reset_off():
    updater, changed = MarginUpdater(5.0, window=4, interval=2, warmup=6), []
    for _ in range(6):
        updater.observe(torch.rand(2), torch.tensor([True, False]))
        changed.append(updater.margin.item() != 5)
    assert changed == [False, False, False, True, True, True]


@pytest.mark.parametrize("min_margin, end", [(0.2, 0.2), (1e-9, None)])
def test_a_dominating_loss_cannot_drag_the_margin_below_its_minimum(min_margin, end):
    torch.manual_seed(0)
    features = torch.nn.Parameter(torch.randn(64, 8, dtype=torch.float64) * 0.3)
    labels = torch.arange(64) % 32
    updater = MarginUpdater(1.0, window=128, interval=64, min_margin=min_margin).double()
    margins = []
    for _ in range(300):
        first, second = torch.randint(64, (2, 64))
        second[::2] = (first[::2] + 32) % 64
        same = labels[first] == labels[second]
        distance = (features[first] - features[second]).square().sum(1).add(1e-12).sqrt()
        hinge = (updater(64) - distance).clamp(min=0)
        torch.where(same, distance, hinge).square().sum().backward()
        updater.observe(distance, same)
        with torch.no_grad():
            features -= 0.02 * features.grad + 0.05 * features  # nothing keeps features apart
            features.grad = None
        margins.append(updater.margin.item())
    assert min(margins) >= min_margin
    assert margins[-1] == end if end else margins[-1] < 0.02


def test_labels_may_be_any_number():
    margins = []
    for same in (torch.tensor([1, 0, 1, 0]), torch.tensor([1.0, -1.0, 0.5, 0.0])):
        for flags in (same, same > 0):
            updater = MarginUpdater(window=4)
            updater.observe(torch.tensor([0.5, 1.5, 0.75, 2.0]), flags)
            margins.append(updater.margin.item())
    assert margins == [1.125] * 4


def test_a_restart_continues_bit_for_bit():
    torch.manual_seed(3)
    batches = [random_pairs(7) for _ in range(12)]
    whole, first, second = (MarginUpdater(window=20, interval=9) for _ in range(3))
    for batch in batches:
        whole.observe(*batch)
    for batch in batches[:5]:
        first.observe(*batch)
    second.load_state_dict(first.state_dict())
    for batch in batches[5:]:
        second.observe(*batch)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers(), strict=True))
    assert whole.margin != 1


def test_updater_remembers_nothing_outside_its_state_and_keeps_its_tensors():
    updater = MarginUpdater(window=8, interval=4)
    tensors = dict(updater.named_buffers())
    attributes = {k: v for k, v in vars(updater).items() if not k.startswith("_")}
    updater.observe(torch.rand(9), torch.rand(9) < 0.5)
    assert attributes == {k: v for k, v in vars(updater).items() if not k.startswith("_")}
    assert not list(updater.parameters()) and set(updater.state_dict()) == set(tensors)
    assert all(tensors[name] is buffer for name, buffer in updater.named_buffers())


def test_updater_never_asks_the_device_for_a_number():
    updater = MarginUpdater(window=8, interval=4).to("meta")  # a meta tensor has none to give
    updater.observe(torch.rand(9, device="meta"), torch.ones(9, device="meta"))
    assert updater(5).shape == (5,)


def test_observing_compiles_into_one_graph():
    torch.manual_seed(5)
    eager, compiled = MarginUpdater(window=8, interval=4), MarginUpdater(window=8, interval=4)
    observe = torch.compile(compiled.observe, fullgraph=True, backend="eager")
    for _ in range(3):
        batch = random_pairs(6)
        eager.observe(*batch)
        observe(*batch)
    buffers = zip(eager.buffers(), compiled.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers) and eager.margin != 1


def test_observing_between_forward_and_backward_does_not_disturb_the_gradient():
    updater = MarginUpdater(1.0, window=4)
    distances = torch.tensor([0.5, 1.5, 0.75, 2.0], requires_grad=True)
    loss = (distances * updater(4)).sum()
    updater.observe(distances, torch.tensor([True, False, True, False]))
    loss.backward()
    assert distances.grad.tolist() == [1] * 4 and updater.margin == 1.125
    assert not any(buffer.requires_grad for buffer in updater.buffers())


def observe(*arguments):
    return lambda: MarginUpdater().observe(*arguments)


BAD = [
    (lambda: MarginUpdater(window=1), ValueError, "window must be at least 2; got 1."),
    (lambda: MarginUpdater(interval=0), ValueError, "interval must be at least 1; got 0."),
    (lambda: MarginUpdater(warmup=-1), ValueError, "warmup must be at least 0; got -1."),
    (lambda: MarginUpdater(min_margin=0.0), ValueError, "min_margin must be above 0.* got 0.0."),
    (lambda: MarginUpdater(min_margin=math.nan), ValueError, "min_margin must be above 0"),
    (
        lambda: MarginUpdater(0.05),
        ValueError,
        r"margin must be finite and at least min_margin, 0.1; got 0.05.",
    ),
    (lambda: MarginUpdater(math.inf), ValueError, "margin must be finite"),
    (lambda: MarginUpdater(math.nan), ValueError, "margin must be finite"),
    (
        observe(torch.ones(3, 1), torch.ones(3)),
        ValueError,
        r"distances must have shape \(n,\), one per pair; got \(3, 1\)",
    ),
    (observe(torch.ones(()), torch.ones(())), ValueError, r"distances must .* got \(\)"),
    (
        observe(torch.ones(3), torch.ones(2)),
        ValueError,
        r"same must have shape \(3,\), one per pair; got \(2,\)",
    ),
    (observe([1.0], torch.ones(1)), TypeError, "distances must be a Tensor; got list"),
    (observe(torch.ones(1), [1.0]), TypeError, "same must be a Tensor; got list"),
    (observe(torch.ones(2) * 1j, torch.ones(2)), TypeError, "distances must be a real number"),
    (
        observe(torch.ones(2, device="meta"), torch.ones(2, device="meta")),
        ValueError,
        r"distances must be on the device of the updater, cpu; .*call updater.to\('meta'\) first",
    ),
    (
        observe(torch.ones(2), torch.ones(2, device="meta")),
        ValueError,
        "same must be on the device of distances, cpu; got meta",
    ),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[message for *_, message in BAD])
def test_bad_arguments_are_refused_in_one_line(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert "\n" not in str(error.value)
