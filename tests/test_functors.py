"""Every functor of csrc as the CPU and as the GPU compute it (mtlfast._numerics)."""

import numpy as np
import pytest
import torch
from native_numerics import CORNERS, numerics
from tails import RELATIVE, TAILS, TINY, exact
from test_numerics import sigmoid, softplus

from mtlfast.ops.catalogue import KERNELS, LOSSES


def packed(loss, options):
    """Returns label smoothing and the loss's parameters as the functors are given them."""
    params = [0.0, *LOSSES[loss].pack({**LOSSES[loss].parameters, **options})]
    return params + [0.0] * (5 - len(params))


def pointwise(tail, module, x: np.ndarray, label: float):
    """Returns value and gradient of a functor."""
    p = np.full_like(x, tail.options.get("pos_weight", 1.0))
    params = packed(tail.loss, tail.options)
    return module.pointwise(tail.loss, x, np.full_like(x, label), p, params)


@pytest.mark.parametrize("index", range(len(TAILS)), ids=lambda i: str(TAILS[i]))
@pytest.mark.parametrize("label", [0, 1])
def test_functors_keep_their_digits_in_the_tails(index, label):
    tail = TAILS[index]
    runs = [("cpu", np.float32, None), ("cpu", np.float64, None)]
    runs += [("gpu", np.float32, corner) for corner in CORNERS]
    for path, dtype, corner in runs:
        if corner is not None:
            numerics.gpu.set_errors(*corner)
        found = pointwise(
            tail, getattr(numerics, path), tail.logits(label).numpy().astype(dtype), label
        )
        for got, truth in zip(found, exact(index, label), strict=True):
            error = np.abs(got.astype(np.float64) - truth.numpy())
            allowed = RELATIVE * np.abs(truth.numpy()) + TINY
            assert (error <= allowed).all(), (
                path,
                dtype,
                corner,
                tail.logits(label)[error > allowed],
            )


@pytest.mark.parametrize("index", range(len(TAILS)), ids=lambda i: str(TAILS[i]))
def test_nan_stays_nan(index):
    numerics.gpu.set_errors(0, 0, 0)
    for path, dtype in (("cpu", np.float32), ("cpu", np.float64), ("gpu", np.float32)):
        # A GPU's own NaN has all bits of the fraction.
        full = np.array([-1, np.iinfo(f"i{dtype().itemsize}").max]).astype(f"i{dtype().itemsize}")
        for nan in (np.nan, -np.nan, *full.view(dtype)):
            for label in (0, 1):
                x = np.array([nan], dtype)
                gamma = TAILS[index].options
                value, grad = pointwise(TAILS[index], getattr(numerics, path), x, label)
                assert np.isnan(value).all() and np.isnan(grad).all(), (path, dtype, label, gamma)


def every_half(low, high):
    """Returns the numbers of float16 from `low` to `high`, as float64."""
    x = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
    return x[(x >= low) & (x <= high)]


def specified(loss, x, y):
    """Returns value and gradient of a loss's specification, in float64."""
    x = torch.tensor(x, requires_grad=True)
    value = LOSSES[loss].reference(x, torch.full_like(x, y), **LOSSES[loss].parameters)
    return value.detach().numpy(), torch.autograd.grad(value.sum(), x)[0].numpy()


@pytest.mark.parametrize("label", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("loss", KERNELS["pointwise"])
def test_functors_are_their_specification_at_every_half(loss, label):
    """Beyond exp(-80), float32 holds a number no longer in all its digits."""
    x = every_half(-80, 80)
    if not LOSSES[loss].classification:
        x = x[x != label]  # torch differentiates |x| at 0 in its own way
    near = np.ones_like(x)
    if loss == "asymmetric_loss":  # near the clip's edge the sigmoid's rounding is left
        clip = LOSSES[loss].parameters["clip"]
        near += clip / np.abs(sigmoid(x) - clip)
    # A soft label's gradient changes its sign, where the two sides' rounding is left.
    units = 0 if label in (0, 1) else 8
    expected = specified(loss, x, label)
    for path, dtype in (("cpu", np.float32), ("cpu", np.float64), ("gpu", np.float32)):
        for corner in CORNERS if path == "gpu" else [(0, 0, 0)]:
            numerics.gpu.set_errors(*corner)
            given = x.astype(dtype)
            y, p = np.full_like(given, label), np.ones_like(given)
            found = getattr(numerics, path).pointwise(loss, given, y, p, packed(loss, {}))
            for got, truth in zip(found, expected, strict=True):
                relative = RELATIVE if dtype == np.float32 else 1e-10
                allowed = relative * near * np.abs(truth) + TINY
                allowed += units * np.finfo(dtype).eps
                wrong = np.abs(got - truth) > allowed
                assert not wrong.any(), (path, dtype, corner, x[wrong][:5], got[wrong][:5])


@pytest.mark.parametrize("loss", KERNELS["pointwise"])
def test_functors_give_numbers_at_every_half_beyond(loss):
    """A finite value and gradient wherever the logit is finite; the value never negative."""
    x = every_half(-65504, 65504).astype(np.float32)
    for path in ("cpu", "gpu"):
        for label in (0.0, 0.25, 1.0):
            y, p = np.full_like(x, label), np.ones_like(x)
            value, grad = getattr(numerics, path).pointwise(loss, x, y, p, packed(loss, {}))
            assert np.isfinite(value).all() and np.isfinite(grad).all() and (value >= 0).all()


REGRESSION = {
    "mse_loss": ([0.0] * 5, lambda d: d**2, lambda d: 2 * d),
    "l1_loss": ([0.0] * 5, np.abs, np.sign),
    "smooth_l1_loss": (
        [0.0, 0.5, 0.0, 0.0, 0.0],
        lambda d: np.where(np.abs(d) < 0.5, d**2, np.abs(d) - 0.25),
        lambda d: np.where(np.abs(d) < 0.5, 2 * d, np.sign(d)),
    ),
}


@pytest.mark.parametrize("loss", REGRESSION)
def test_regression_functors_are_their_formulas(loss):
    params, value, slope = REGRESSION[loss]
    numerics.gpu.set_errors(2, 2, 1)
    for path, dtype in (("cpu", np.float32), ("cpu", np.float64), ("gpu", np.float32)):
        x = np.linspace(-3, 3, 1001).astype(dtype)
        y = np.full_like(x, 0.125)
        found = getattr(numerics, path).pointwise(loss, x, y, np.ones_like(x), params)
        d = x.astype(np.float64) - 0.125
        for got, truth in zip(found, (value(d), slope(d)), strict=True):
            assert (np.abs(got - truth) <= 4 * np.finfo(dtype).eps * np.abs(truth)).all()


def hinge(h):
    return np.maximum(h, 0), (h >= 0).astype(float)


def soft(h):
    return softplus(h), sigmoid(h)


def triplet(loss, swap):
    def both(d, **_):
        far = np.minimum(d[:, 1], d[:, 2]) if swap else d[:, 1]
        value, slope = loss(d[:, 0] - far + 1.0)
        if not swap:
            return value, np.stack([slope, -slope], 1)
        share = (1.0 * (d[:, 2] < d[:, 1]) + (d[:, 2] <= d[:, 1])) / 2  # a tie: half each
        return value, np.stack([slope, -slope * (1 - share), -slope * share], 1)

    return both


def contrastive(d, same):
    h = np.where(same, d[:, 0], np.maximum(1.0 - d[:, 0], 0))
    return h**2 / 2, np.where(same, h, -h)[:, None]


def cosine(d, same):
    logit = 30.0 * (1 - d[:, 0] / 2) - 4.0
    plus, minus = sigmoid(logit), sigmoid(-logit)
    residual = np.where(same, minus, -plus)
    return residual**2 / 2, (residual * plus * minus * 30.0 / 2)[:, None]


def hierarchical(d, **_):
    first, second = hinge(d[:, 0] - d[:, 1] + 0.5), hinge(d[:, 1] - d[:, 2] + 0.25)
    slopes = [first[1], second[1] - first[1], -second[1]]
    return (first[0] + second[0]) / 2, np.stack(slopes, 1) / 2


ROWS = {
    "contrastive": (1, {}, contrastive),
    "cosine": (1, {"scale": 30.0, "bias": -4.0}, cosine),
    "triplet": (2, {}, triplet(hinge, False)),
    "triplet_soft": (2, {}, triplet(soft, False)),
    "triplet_swap": (3, {}, triplet(hinge, True)),
    "triplet_swap_soft": (3, {}, triplet(soft, True)),
    "hierarchical": (3, {"gaps": [0.5, 0.25]}, hierarchical),
}


@pytest.mark.parametrize("functor", ROWS)
def test_rows_functors_are_their_formulas(functor):
    pairs, options, formula = ROWS[functor]
    # Multiples of 1/64, whose sums are exact: what is left is the functor's own rounding.
    d = np.random.default_rng(1).integers(0, 64 * (4 if pairs == 1 else 60), (4000, pairs)) / 64
    same = np.arange(len(d)) % 2 == 0
    expected = formula(d, same=same)
    for path, dtype in (("cpu", np.float32), ("cpu", np.float64), ("gpu", np.float32)):
        for corner in CORNERS if path == "gpu" else [(0, 0, 0)]:
            numerics.gpu.set_errors(*corner)
            found = getattr(numerics, path).rows(functor, d.astype(dtype), same, **options)
            for got, truth in zip(found, expected, strict=True):
                allowed = (2e-5 if dtype == np.float32 else 1e-13) * np.abs(truth) + TINY
                assert (np.abs(got - truth) <= allowed).all(), (path, dtype, corner)
