"""What weightings and the margin updater remember keeps its digits in a model of any type."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from test_weightings import WEIGHTINGS
from torch import nn

import mtlfast.functional as MF
from mtlfast import MarginUpdater
from mtlfast.weighting import Uncertainty, ValidationLossTrend, Weighting

MAKERS = WEIGHTINGS | {"MarginUpdater": lambda: MarginUpdater(window=8)}
CASTS = {
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "to": lambda module: module.to(torch.bfloat16),
    "type": lambda module: module.type(torch.float16),
    "to with device": lambda module: module.to("cpu", torch.float16),
    "to like a tensor": lambda module: module.to(torch.zeros((), dtype=torch.bfloat16)),
}
each = pytest.mark.parametrize("name", MAKERS)
BATCHES = torch.rand(230, 3, generator=torch.Generator().manual_seed(0)) + 0.1


def tensors(module):
    return dict(module.state_dict(keep_vars=True))


def feed(module):
    if isinstance(module, MarginUpdater):
        module.observe(BATCHES.flatten(), BATCHES.flatten() > 0.5)
        return
    for losses in BATCHES:
        module.observe(losses)
        module(losses)


@functools.cache
def fed(name):
    """Returns the tensors of one that was never cast, once it is fed."""
    module = MAKERS[name]()
    feed(module)
    return tensors(module)


@each
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a model"])
def test_a_cast_to_a_half_type_changes_nothing(name, cast, inside):
    module, other = MAKERS[name](), MAKERS[name]()
    model = nn.ModuleList([nn.Linear(2, 2), module])
    CASTS[cast](model if inside else module)
    assert model[0].weight.dtype != torch.float32 or not inside
    for key, tensor in tensors(module).items():
        expected = tensors(other)[key]
        assert tensor.dtype == expected.dtype, key
        assert torch.equal(tensor.nan_to_num(), expected.nan_to_num()), key
    feed(module)
    for key, tensor in tensors(module).items():
        assert torch.equal(tensor.nan_to_num(), fed(name)[key].nan_to_num()), key


@each
def test_double_and_float_and_devices_work_as_ever(name):
    module = MAKERS[name]().double()
    floating = [t for t in tensors(module).values() if t.is_floating_point()]
    assert floating and all(tensor.dtype == torch.float64 for tensor in floating)
    module.half()
    assert all(tensor.dtype == torch.float64 for tensor in floating)
    whole = [t.dtype for t in tensors(module).values() if not t.is_floating_point()]
    assert set(whole) <= {torch.int64, torch.bool}
    module.float().to("meta", torch.bfloat16)
    for tensor in tensors(module).values():
        assert tensor.device.type == "meta"
        assert tensor.dtype == torch.float32 or not tensor.is_floating_point()


@each
def test_a_state_goes_round_through_a_cast_module(name):
    module = MAKERS[name]()
    feed(module)
    other = MAKERS[name]().bfloat16()
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    feed(module)
    feed(other)
    for key, tensor in tensors(module).items():
        assert torch.equal(tensor.nan_to_num(), tensors(other)[key].nan_to_num()), key


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_type_as_torchs_default_changes_nothing(name, dtype):
    torch.set_default_dtype(dtype)
    try:
        module = MAKERS[name]()
        feed(module)
    finally:
        torch.set_default_dtype(torch.float32)
    other = MAKERS[name]()
    feed(other)
    for key, tensor in tensors(module).items():
        expected = tensors(other)[key]
        assert tensor.dtype == expected.dtype, key
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_losses_of_a_half_type_are_combined_in_float32_and_rounded_once(name, dtype):
    weighting = WEIGHTINGS[name]().to(dtype)
    weighting.weights.mul_(1.001)
    losses = (BATCHES[0] * 100).to(dtype).requires_grad_()
    total = weighting(losses, torch.tensor([1, 0, 3]))
    total.backward()
    again = WEIGHTINGS[name]()
    again.weights.mul_(1.001)
    exact = again(losses.detach().float(), torch.tensor([1, 0, 3]))
    assert total.dtype == dtype and torch.equal(total, exact.to(dtype))
    assert losses.grad.dtype == dtype and losses.grad[1] == 0


def test_a_long_window_in_a_model_of_bfloat16_gives_the_trend_s_weights():
    trend = nn.Sequential(ValidationLossTrend(3, interval=1000)).bfloat16()[0]
    means = torch.tensor([[1.0, 2.0, 4.0], [0.5, 1.0, 2.0]])
    for mean in means:
        for _ in range(1000):
            trend.observe(mean, torch.tensor([7, 8, 9]))
    torch.testing.assert_close(trend.weights, torch.tensor([3 / 7, 6 / 7, 12 / 7]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_margin_of_a_cast_updater_fits_embeddings_of_that_type(dtype):
    updater = MarginUpdater(window=8).to(dtype)
    x, y = torch.randn(2, 8, 4).to(dtype)
    same = torch.arange(8) % 2
    updater.observe(nn.functional.pairwise_distance(x, y), same)
    assert MF.contrastive_loss(x, y, same, margin=updater(8)).isfinite()


# What a task without labels may hold


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_the_weight_of_a_task_without_labels_reaches_neither_loss_nor_gradient(bad):
    weighting = Weighting(torch.tensor([1.0, bad, 2.0]))
    for loss in (0.0, 5.0, torch.nan, torch.inf):
        losses = torch.tensor([3.0, loss, 4.0], requires_grad=True)
        total = weighting(losses, torch.tensor([1, 0, 2]))
        total.backward()
        assert total == 11 and losses.grad.tolist() == [1, 0, 2]


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan, -1e30, 1e30])
def test_the_log_variance_of_a_task_without_labels_gets_gradient_0_whatever_it_is(bad):
    weighting = Uncertainty(3)
    with torch.no_grad():
        weighting.log_variance[1] = bad
    losses = torch.tensor([3.0, torch.nan, 4.0], requires_grad=True)
    total = weighting(losses, torch.tensor([1, 0, 2]))
    total.backward()
    assert total == 3.5 and losses.grad.tolist() == [0.5, 0, 0.5]
    assert weighting.log_variance.grad[1] == 0 and weighting.log_variance.grad.isfinite().all()
