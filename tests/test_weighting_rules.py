"""What each weighting computes: its formula restated, and the optimum it leads to."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import pytest
import torch

from mtlfast.weighting import (
    DynamicWeightAverage,
    Fixed,
    GeometricMean,
    RandomWeights,
    Uncertainty,
    ValidationLossTrend,
)
from mtlfast.weighting.random_weights import _hash

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DOUBLE = torch.float64
PAIR = torch.tensor([1.0, -1.0], dtype=DOUBLE)


def descend(weighting, scales=(1.0, 1.0), start=0.6, rate=0.02, steps=400):
    """Returns where plain gradient descent on L_t = scale_t ((x -+ 1)^2 + 3) went, all x."""
    weighting.double()
    x = torch.tensor(start, dtype=DOUBLE, requires_grad=True)
    optimizer = torch.optim.SGD([x, *weighting.parameters()], lr=rate)
    way = []
    for _ in range(steps):
        losses = torch.tensor(scales, dtype=DOUBLE) * ((x - PAIR) ** 2 + 3)
        optimizer.zero_grad()
        weighting.observe(losses)
        weighting(losses).backward()
        optimizer.step()
        way.append(x.item())
    return way


def losses_and_counts(steps, tasks):
    random = torch.Generator().manual_seed(steps)
    losses = torch.rand(steps, tasks, generator=random, dtype=DOUBLE) + 0.1
    return losses, torch.randint(1, 5, (steps, tasks), generator=random)


def test_fixed_leads_to_the_weighted_mean():
    assert descend(Fixed([1.0, 3.0]))[-1] == pytest.approx((1 - 3) / (1 + 3), abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_geometric_mean_leads_to_the_optimum_of_the_product_whatever_the_scale(scale):
    # ((x - 1)^2 + 3) ((x + 1)^2 + 3) = x^4 + 4 x^2 + 16
    weighting = GeometricMean(2)
    assert descend(weighting, (1.0, scale), rate=0.1)[-1] == pytest.approx(0, abs=1e-6)
    losses = torch.tensor([4.0, 4.0 * scale], dtype=DOUBLE, requires_grad=True)
    total = weighting(losses)
    total.backward()
    assert total.item() == pytest.approx(4 * math.sqrt(scale))
    torch.testing.assert_close(losses.grad, weighting.weights)
    torch.testing.assert_close(weighting.weights, total.detach() / (2 * losses.detach()))


@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_uncertainty_leads_to_the_log_of_the_losses_and_the_optimum_of_their_product(scale):
    weighting = Uncertainty(2)
    way = descend(weighting, (1.0, scale), rate=0.1, steps=2000)
    assert way[-1] == pytest.approx(0, abs=1e-6)
    expected = [math.log(4), math.log(4 * scale)]
    assert weighting.log_variance.tolist() == pytest.approx(expected, abs=1e-6)
    assert weighting.weights.tolist() == pytest.approx([1 / 8, 1 / (8 * scale)], rel=1e-5)


@pytest.mark.parametrize(
    "weighting",
    [DynamicWeightAverage(2, 5), ValidationLossTrend(2, 5, momentum=0.5), RandomWeights(2, seed=1)],
    ids=repr,
)
def test_symmetric_tasks_meet_in_the_middle(weighting):
    if isinstance(weighting, RandomWeights):  # never rests, but about the middle
        way = descend(weighting, steps=3000)[300:]
        assert sum(way) / len(way) == pytest.approx(0, abs=0.02)
    else:
        assert descend(weighting)[-1] == pytest.approx(0, abs=1e-3)


def test_uncertainty_equals_its_formula():
    weighting = Uncertainty(3).double()
    losses, variances = losses_and_counts(2, 3)[0]
    with torch.no_grad():
        weighting.log_variance.copy_(variances)
    total = weighting(losses, torch.tensor([1, 0, 2]))
    terms = [math.exp(-s) / 2 * loss + s / 2 for loss, s in zip(losses, variances, strict=True)]
    assert total.item() == pytest.approx(terms[0].item() + terms[2].item(), rel=1e-12)
    torch.testing.assert_close(weighting.weights, torch.exp(-variances) / 2)


@pytest.mark.parametrize("s", [1.0, 19.0, 21.0, 100.0, 1e4, 1e10])
@pytest.mark.parametrize("sign", [1, -1])
def test_uncertainty_stays_finite_and_finds_back(s, sign):
    weighting = Uncertainty(2)
    torch.nn.init.constant_(weighting.log_variance, sign * s)
    losses = torch.tensor([1e-3, 1e3], requires_grad=True)
    total = weighting(losses)
    total.backward()
    found = (total, losses.grad, weighting.weights, weighting.log_variance.grad)
    assert all(tensor.isfinite().all() for tensor in found)
    if s > 10:
        assert torch.equal(weighting.log_variance.grad.sign(), torch.full((2,), float(sign)))


def test_geometric_mean_of_a_loss_that_is_not_positive_is_finite():
    for losses in ([0.0, 2.0], [0.0, 0.0], [-1.0, 3.0], [1e-45, 1e30], [1e-38, 3e38]):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, DOUBLE):
            weighting = GeometricMean(2)
            leaf = torch.tensor(losses).clamp(max=6e4).to(dtype).requires_grad_()
            total = weighting(leaf)
            total.backward()
            found = (total, leaf.grad, weighting.weights)
            assert all(tensor.isfinite().all() for tensor in found), (losses, dtype)
            assert total > 0 and (weighting.weights > 0).all()


def test_geometric_mean_is_over_the_tasks_with_labels():
    losses = torch.tensor([2.0, math.nan, 18.0], requires_grad=True)
    total = GeometricMean(3)(losses, torch.tensor([1, 0, 7]))
    total.backward()
    assert total.item() == pytest.approx(6)
    assert losses.grad.tolist() == pytest.approx([1.5, 0, 1 / 6])


def averaged(losses, counts, interval, temperature):
    """Yields dynamic weight average's weights after each step, in plain Python."""
    tasks, means = len(losses[0]), []
    weights = [1.0] * tasks
    for step in range(1, len(losses) + 1):
        if step % interval == 0:
            window = range(step - interval, step)
            sums = [sum(losses[i][t] * counts[i][t] for i in window) for t in range(tasks)]
            means.append([s / sum(counts[i][t] for i in window) for t, s in enumerate(sums)])
        if step % interval == 0 and len(means) > 1:
            exps = [
                math.exp(a / b / temperature) for a, b in zip(means[-1], means[-2], strict=True)
            ]
            weights = [tasks * e / sum(exps) for e in exps]
        yield weights


@pytest.mark.parametrize("interval, temperature", [(1, 2.0), (3, 0.5)])
def test_dynamic_weight_average_equals_its_formula(interval, temperature):
    losses, counts = losses_and_counts(14, 4)
    weighting = DynamicWeightAverage(4, interval, temperature=temperature).double()
    expected = averaged(losses.tolist(), counts.tolist(), interval, temperature)
    for batch, labels, weights in zip(losses, counts, expected, strict=True):
        weighting(batch, labels)
        assert weighting.weights.tolist() == pytest.approx(weights, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_dynamic_weight_average_shares_what_a_task_without_a_ratio_leaves(bad):
    weighting = DynamicWeightAverage(3, 1).double()
    rows = [[1, 1, 1], [0.5, 0.7, 1], [0.5, bad, 0.5], [0.5, 0.6, 0.5], [0.5, 0.3, 0.2]]
    seen = []
    for losses in rows:
        weighting(torch.tensor(losses, dtype=DOUBLE))
        seen.append(weighting.weights.tolist())
        assert sum(seen[-1]) == pytest.approx(3)
    assert seen[1][1] == seen[2][1] == seen[3][1] != seen[4][1]
    assert seen[2][0] / seen[2][2] == pytest.approx(math.exp((1 - 0.5) / 2))


def splitmix64(seed):
    """Yields SplitMix64's numbers, as in its paper."""
    for state in itertools.count(seed + 0x9E3779B97F4A7C15, 0x9E3779B97F4A7C15):
        z = state % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def test_the_hash_is_splitmix64():
    numbers = splitmix64(1234567)
    assert [next(numbers) for _ in range(2)] == [6457827717110365317, 3203168211198807973]
    states = torch.arange(1, 1001) * (0x9E3779B97F4A7C15 - 2**64) + 7
    assert [bits % 2**64 for bits in _hash(states).tolist()] == [
        number for number, _ in zip(splitmix64(7), range(1000), strict=False)
    ]


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_random_weights_equal_their_formula(seed):
    weighting, numbers = RandomWeights(5, seed=seed), splitmix64(seed)
    for _ in range(20):
        uniforms = [((next(numbers) >> 41) + 0.5) / 2**23 for _ in range(5)]
        exps = [math.exp(NormalDist().inv_cdf(u)) for u in uniforms]
        expected = [5 * e / sum(exps) for e in exps]
        assert weighting.weights.tolist() == pytest.approx(expected, rel=1e-4)
        weighting(torch.ones(5))


def test_random_weights_come_from_independent_normal_numbers():
    steps, tasks = 4000, 6
    rows = []
    weighting = RandomWeights(tasks, seed=3)
    for _ in range(steps):
        rows.append(weighting.weights.double())
        weighting.advance(torch.ones(tasks))
    logs = torch.stack(rows).log()
    z = logs - logs.mean(1, keepdim=True)  # normal, but for the mean over tasks
    bound = 5 / math.sqrt(steps)
    assert z.mean(0).abs().max() < bound
    assert (z.T @ z / steps - (torch.eye(tasks) - 1 / tasks)).abs().max() < 2 * bound
    assert (z[1:].T @ z[:-1] / steps).abs().max() < bound
    normal = (z[:, ::2] - z[:, 1::2]).flatten() / math.sqrt(2)
    assert (normal**4).mean().item() == pytest.approx(3, abs=0.3)
    for limit in (0.5, 1.0, 2.0, 3.0):
        share = (normal.abs() > limit).double().mean().item()
        assert share == pytest.approx(2 * NormalDist().cdf(-limit), abs=0.01)
    other = torch.stack([RandomWeights(tasks, seed=seed).weights for seed in range(steps)])
    assert torch.unique(other, dim=0).shape == other.shape
    assert (other.mean(0) - 1).abs().max() < 0.1


def test_random_weights_go_on_where_a_state_stopped_and_differ_by_seed():
    first, second = RandomWeights(4, seed=1), RandomWeights(4, seed=2)
    assert not torch.equal(first.weights, second.weights)
    for _ in range(3):
        first(torch.ones(4))
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        assert torch.equal(first(torch.arange(4.0)), second(torch.arange(4.0)))
        assert first.weights.sum().item() == pytest.approx(4)


BAD = [
    (lambda: DynamicWeightAverage(0, 1), "num_tasks must be at least 1; got 0."),
    (lambda: DynamicWeightAverage(2, 0), "interval must be at least 1; got 0."),
    *(
        (lambda t=t: DynamicWeightAverage(2, 1, temperature=t), "temperature must be positive and")
        for t in (0.0, -1.0, math.inf, math.nan)
    ),
    (lambda: Uncertainty(0), "num_tasks must be at least 1; got 0."),
    (lambda: GeometricMean(-1), "num_tasks must be at least 1; got -1."),
    (lambda: RandomWeights(0), "num_tasks must be at least 1; got 0."),
    (lambda: RandomWeights(2, seed=-1), r"seed must be in \[0, 9223372036854775807\]; got -1."),
    (lambda: RandomWeights(2, seed=2**63), "seed must be in"),
]


@pytest.mark.parametrize("call, message", BAD)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "make",
    [
        lambda: ValidationLossTrend(40, 2),
        lambda: DynamicWeightAverage(40, 2),
        lambda: Uncertainty(40),
        lambda: RandomWeights(40, seed=5),
        lambda: GeometricMean(40),
    ],
)
def test_a_captured_step_equals_that_of_the_cpu(make):
    host, device = make(), make().cuda()
    losses = torch.rand(40, device="cuda")
    counts = torch.randint(0, 3, (40,), device="cuda")

    def step(weighting, losses, counts):
        weighting.observe(losses, counts)
        return weighting(losses, counts).detach()

    initial = {name: tensor.clone() for name, tensor in device.state_dict().items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(device, losses, counts)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total = step(device, losses, counts)
    device.load_state_dict(initial)
    for _ in range(7):
        losses.copy_(torch.rand(40))
        graph.replay()
        torch.testing.assert_close(total.cpu(), step(host, losses.cpu(), counts.cpu()))
    for name, tensor in device.state_dict().items():
        expected = host.state_dict()[name]
        torch.testing.assert_close(tensor.cpu(), expected, rtol=1e-4, atol=1e-5, equal_nan=True)
