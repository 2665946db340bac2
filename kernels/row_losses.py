"""The losses on rows in Triton: the mirror of csrc/rows.h, name by name.

Row a enters as u_a = r_a a. A pair is compared element by element, t = u_a - u_b + eps; a metric's
distance follows from the sum of term(t) over the row, and dd/dt = chain * slope(t). A functor sees
a tuple of distances, a float32 (rows, 1) block each, and returns the loss of each row and the tuple
of its derivatives. Pairs are (0, 1), (0, 2) ...; last (1, 2) where the loss swaps.
"""
# ruff: noqa: RUF005 -- Triton can't unpack into a tuple.

import functools
from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl

from .math import binary, exp2_sum, logistic_sigmoid, logistic_softplus, positive

# Rows shorter than this are not normalised to noise: they enter as a / SMALLEST_NORM and get
# gradient 0.
SMALLEST_NORM = tl.constexpr(1e-12)


@triton.jit
def sign(t):
    return tl.where(t > 0, 1.0, tl.where(t < 0, -1.0, t))  # 0 at 0, NaN at NaN


@triton.jit
def inverse(x):
    # 1 / x for x >= 0, but 0 at 0. One Newton step rounds the fast quotient as well as the exact
    # one, whose subroutine costs registers.
    ordinary = (x > 0) & (x < float("inf"))
    safe = tl.where(ordinary, x, 1.0)
    fast = 1.0 / safe
    exact = tl.fma(tl.fma(-fast, safe, 1.0), fast, fast)
    quotient = tl.where(fast < float("inf"), exact, fast)
    return tl.where(ordinary, quotient, tl.where(x != x, x, 0.0))


@triton.jit
def square_root(x):
    # The same.
    fast = tl.sqrt(x)
    ordinary = (fast > 0) & (fast < float("inf"))
    half = 0.5 / tl.where(ordinary, fast, 1.0)
    return tl.where(ordinary, tl.fma(tl.fma(-fast, fast, x), half, fast), fast)


@triton.jit
def power(x, p, rest):
    # x^(p + rest) for x >= 0; of 0, subnormal numbers and infinity the next normal one's.
    n, log = binary(positive(tl.where(x > 3.4028235e38, 3.4028235e38, x)))
    log *= 1.44269504
    high = p * n
    low = tl.fma(p, n, -high) + (p * log + rest * (n + log))
    # exp2 makes 0 of what is subnormal.
    shift = tl.where(high < -100.0, 64.0, 0.0)
    found = exp2_sum(high + shift, low) * tl.exp2(-shift)
    return tl.where(high + low >= 128.0, float("inf"), found)  # infinity has no remainder


# p = 2.
@triton.jit
def squares_term(t, p):
    return t * t


@triton.jit
def squares_slope(t, p):
    return t


@triton.jit
def squares_distance(sums, p, SQUARED: tl.constexpr):
    if SQUARED:
        return sums, tl.full(sums.shape, 2.0, tl.float32)
    else:
        d = square_root(sums)
        return d, inverse(d)


# p = 1.
@triton.jit
def absolutes_term(t, p):
    return tl.abs(t)


@triton.jit
def absolutes_slope(t, p):
    return sign(t)


@triton.jit
def absolutes_distance(sums, p, SQUARED: tl.constexpr):
    if SQUARED:
        return sums * sums, 2.0 * sums
    else:
        return sums, tl.full(sums.shape, 1.0, tl.float32)


# Any other p in (0, inf): two transcendentals per element, for completeness, not for speed.
@triton.jit
def powers_term(t, p):
    return t * powers_slope(t, p)


@triton.jit
def powers_slope(t, p):
    return sign(t) * power(tl.abs(t), p - 1.0, 0.0)


@triton.jit
def powers_distance(sums, p, SQUARED: tl.constexpr):
    # A subnormal sum is one of something. 1 / p to more digits than a number has: it multiplies the
    # sum's logarithm.
    tiny = sums < 1.17549435e-38
    root = tl.div_rn(1.0, p)
    d = power(
        tl.where(tiny, sums * 16777216.0, sums), root, tl.div_rn(tl.fma(-root, p, 1.0), p)
    ) * tl.where(tiny, tl.exp2(-24.0 * root), 1.0)
    d = tl.where((sums == 0) | (sums == float("inf")), sums, d)
    chain = tl.where(d == 0, 0.0, power(d, 1.0 - p, 0.0))
    if SQUARED:
        return d * d, 2.0 * d * chain
    else:
        return d, chain


# What a functor sees of a row beside its distances: gaps, the margin first (hierarchical:
# m_k - m_{k+1}); same; scale and bias of the cosine form; overlap, |u_0|^2 + |u_1|^2.


@triton.jit
def hinge(h):
    return tl.where(h < 0, 0.0, h)  # NaN passes


@triton.jit
def hinge_slope(h):
    return tl.where(h >= 0, 1.0, 0.0)  # 1 at the edge


# Half d^2 for a pair of the same class, half the squared hinge on the distance else.
@triton.jit
def contrastive_loss_value(d, gaps, same, scale, bias, overlap, SWAP: tl.constexpr, SOFT):
    h = tl.where(same, d[0], hinge(gaps[0] - d[0]))
    return 0.5 * h * h, (tl.where(same, h, -h),)


# Half (y - sigmoid(scale cos + bias))^2; d is the squared distance of the unit rows.
@triton.jit
def cosine_contrastive_loss_value(d, gaps, same, scale, bias, overlap, SWAP: tl.constexpr, SOFT):
    plus, minus = logistic_sigmoid(scale * (0.5 * (overlap - d[0])) + bias)
    residual = tl.where(same, minus, -plus)  # y - sigmoid
    return 0.5 * residual * residual, (0.5 * residual * plus * minus * scale,)


# max(0, d_ap - d_an + margin); SWAP: with d_pn instead of d_an where it is smaller; SOFT: softplus
# instead of the hinge.
@triton.jit
def triplet_margin_loss_value(
    d, gaps, same, scale, bias, overlap, SWAP: tl.constexpr, SOFT: tl.constexpr
):
    negative = d[1]
    if SWAP:
        negative = tl.where((d[2] < d[1]) | (d[2] != d[2]), d[2], d[1])
    h = d[0] - negative + gaps[0]
    if SOFT:
        value, _ = logistic_softplus(h)
        slope, _ = logistic_sigmoid(h)
    else:
        value = hinge(h)
        slope = hinge_slope(h)
    if SWAP:
        share = tl.where(d[2] < d[1], 1.0, tl.where(d[2] == d[1], 0.5, 0.0))  # as torch.minimum
        return value, (slope, -slope * (1.0 - share), -slope * share)
    else:
        return value, (slope, -slope)


# Half the sum over k of max(0, d_k - d_{k+1} + m_k - m_{k+1}), levels from nearest to farthest.
# Two levels are the normalised triplet.
@triton.jit
def hierarchical_triplet_loss_value(
    d, gaps, same, scale, bias, overlap, SWAP: tl.constexpr, SOFT: tl.constexpr
):
    value = tl.zeros(d[0].shape, tl.float32)
    nearer = tl.zeros(d[0].shape, tl.float32)
    slopes = ()
    for k in tl.static_range(len(d) - 1):
        h = d[k] - d[k + 1] + gaps[k]
        value += hinge(h)
        slope = 0.5 * hinge_slope(h)
        slopes = slopes + (slope - nearer,)
        nearer = slope
    return 0.5 * value, slopes + (-nearer,)


class Metric(NamedTuple):
    """How two rows are compared."""

    term: triton.JITFunction
    slope: triton.JITFunction
    distance: triton.JITFunction


SQUARES = Metric(squares_term, squares_slope, squares_distance)
ABSOLUTES = Metric(absolutes_term, absolutes_slope, absolutes_distance)
POWERS = Metric(powers_term, powers_slope, powers_distance)
_METRICS = {1.0: ABSOLUTES, 2.0: SQUARES}


class Settings(NamedTuple):
    """What a loss's name and params say."""

    value: triton.JITFunction
    gaps: tuple[float, ...]
    metric: Metric = SQUARES
    p: float = 2.0
    eps: float = 0.0
    normalize: bool = True
    squared: bool = True
    swap: bool = False
    soft: bool = False


def _contrastive_loss(margin: float, distance: float, normalize: float) -> Settings:
    if distance == 2:
        return Settings(cosine_contrastive_loss_value, (margin,))
    metric = ABSOLUTES if distance == 1 else SQUARES
    return Settings(
        contrastive_loss_value, (margin,), metric, normalize=normalize != 0, squared=False
    )


def _triplet_margin_loss(
    margin: float,
    p: float,
    eps: float,
    swap: float,
    normalize: float,
    squared: float,
    soft: float,
) -> Settings:
    flags = {"normalize": normalize, "squared": squared, "swap": swap, "soft": soft}
    return Settings(
        triplet_margin_loss_value,
        (margin,),
        _METRICS.get(p, POWERS),
        p,
        eps,
        **{name: flag != 0 for name, flag in flags.items()},
    )


def _hierarchical_triplet_loss(squared: float, *gaps: float) -> Settings:
    return Settings(hierarchical_triplet_loss_value, gaps, squared=squared != 0)


# The names as in MF, in the order of their numbers; a call's settings choose among a name's
# functors.
ROWS = {
    "contrastive_loss": _contrastive_loss,
    "triplet_margin_loss": _triplet_margin_loss,
    "hierarchical_triplet_loss": _hierarchical_triplet_loss,
}


@functools.lru_cache(maxsize=256)
def _settings(loss: int, params: tuple[float, ...]) -> Settings:
    return tuple(ROWS.values())[loss](*params)


def settings(loss: int, params: Sequence[float]) -> Settings:
    """Returns what the functor, the metric and the kernels must know, from an op's arguments."""
    return _settings(loss, tuple(params))
