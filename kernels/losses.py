"""The pointwise losses in Triton: the mirror of csrc/pointwise.h, name by name.

A functor sees float32 blocks: x, the logit or prediction; y, a target that is present and already
smoothed; p, the positive weight (1 where there is none); then four parameters, the loss's own by
name and in the order of its record, what it lacks with an underscore. POWERS are the loss's
exponents where all are small whole numbers, else nothing: a few small kernels instead of one that
computes a logarithm nobody needs. Labels of 0 and 1 can be computed on their own side: see
sided_losses.py.
"""

import inspect
from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl

from .math import (
    bounded,
    divide,
    exp_minus_abs,
    exp_rounded,
    log1p_unit,
    log_hit,
    logistic_sigmoid,
    logistic_softplus,
    plus_beyond,
    positive,
    pow_unit,
    sigmoid_pair,
    smaller_sigmoid,
)
from .sided_losses import (
    asymmetric_loss_sided_grad,
    asymmetric_loss_sided_value,
    binary_cross_entropy_with_logits_sided_value,
    sigmoid_focal_loss_sided_grad,
    sigmoid_focal_loss_sided_value,
)


@triton.jit
def binary_cross_entropy_with_logits_value(x, y, p, _a, _b, _c, _d, POWERS: tl.constexpr):
    positive_part = p * y
    negative_part = 1.0 - y
    tail = log1p_unit(exp_minus_abs(x))
    return (
        tl.where(p == 1, tail, tail * (negative_part + positive_part))
        + tl.where(x < 0, -positive_part, negative_part) * x
    )


@triton.jit
def binary_cross_entropy_with_logits_grad(x, y, p, _a, _b, _c, _d, POWERS: tl.constexpr):
    positive_part = p * y
    negative_part = 1.0 - y
    smaller = smaller_sigmoid(exp_minus_abs(x))
    part = tl.where(p == 1, smaller, smaller * (negative_part + positive_part))
    return tl.where(x < 0, part - positive_part, negative_part - part)


# alpha is off when negative.
@triton.jit
def balance(y, alpha):
    off = alpha < 0
    positive_part = tl.where(off, 1.0, alpha)
    negative_part = tl.where(off, 1.0, 1.0 - alpha)
    return positive_part * y + negative_part * (1.0 - y)


@triton.jit
def sigmoid_focal_loss_value(x, y, p, alpha, gamma, _c, _d, POWERS: tl.constexpr):
    sigmoid_plus, sigmoid_minus = logistic_sigmoid(x)
    softplus_plus, softplus_minus = logistic_softplus(x)
    cross_entropy = (1.0 - y) * softplus_plus + p * y * softplus_minus
    miss = sigmoid_plus * (1.0 - y) + sigmoid_minus * y  # 1 - p_t
    return balance(y, alpha) * cross_entropy * pow_unit(miss, gamma, POWERS)


@triton.jit
def sigmoid_focal_loss_grad(x, y, p, alpha, gamma, _c, _d, POWERS: tl.constexpr):
    x = bounded(x)
    sigmoid_plus, sigmoid_minus = logistic_sigmoid(x)
    softplus_plus, softplus_minus = logistic_softplus(x)
    cross_entropy = (1.0 - y) * softplus_plus + p * y * softplus_minus
    miss = sigmoid_plus * (1.0 - y) + sigmoid_minus * y
    slope = sigmoid_plus * sigmoid_minus * (1.0 - 2.0 * y)  # d miss / dx
    relative = divide(slope, positive(miss))  # miss = 0 only where slope is
    residual = (1.0 - y) * sigmoid_plus - p * y * sigmoid_minus
    return (
        balance(y, alpha)
        * pow_unit(miss, gamma, POWERS)
        * (residual + gamma * cross_entropy * relative)
    )


# Full gradient, as timm's.
@triton.jit
def asymmetric_parts(x, y, gamma_neg, gamma_pos, clip, eps, POWERS: tl.constexpr):
    exp_abs = exp_rounded(-tl.abs(x))  # gamma multiplies a relative error
    sigmoid_plus, sigmoid_minus = sigmoid_pair(x, exp_abs)
    clip = tl.where(clip > 0, clip, 0.0)
    shifted = sigmoid_minus + clip
    beyond = plus_beyond(x, exp_abs, clip)
    negative = tl.where(shifted > 1, 1.0, shifted)
    surplus = tl.where(beyond < 0, 0.0, beyond)  # 1 - negative, exact
    clipped = beyond < 0
    miss = y * sigmoid_minus + (1.0 - y) * surplus
    gamma = gamma_pos * y + gamma_neg * (1.0 - y)
    log_likelihood = y * log_hit(sigmoid_plus, sigmoid_minus, eps) + (1.0 - y) * log_hit(
        negative, surplus, eps
    )
    focus = pow_unit(miss, gamma, POWERS)
    return sigmoid_plus, sigmoid_minus, negative, log_likelihood, miss, gamma, focus, clipped


@triton.jit
def asymmetric_loss_value(x, y, p, gamma_neg, gamma_pos, clip, eps, POWERS: tl.constexpr):
    _, _, _, log_likelihood, _, _, focus, _ = asymmetric_parts(
        x, y, gamma_neg, gamma_pos, clip, eps, POWERS
    )
    return -log_likelihood * focus


@triton.jit
def asymmetric_loss_grad(x, y, p, gamma_neg, gamma_pos, clip, eps, POWERS: tl.constexpr):
    plus, minus, negative, log_likelihood, miss, gamma, focus, clipped = asymmetric_parts(
        x, y, gamma_neg, gamma_pos, clip, eps, POWERS
    )
    slope = plus * minus
    slope_neg = tl.where(clipped, 0.0, -slope)
    floored = negative < eps
    log_slope_neg = divide((1.0 - y) * slope_neg, tl.where(floored, 1.0, negative))
    log_slope = tl.where(plus < eps, 0.0, y * minus) + tl.where(floored, 0.0, log_slope_neg)
    miss_slope = -(y * slope + (1.0 - y) * slope_neg)
    relative = divide(miss_slope, positive(miss))
    return -focus * (log_slope + log_likelihood * gamma * relative)


@triton.jit
def mse_loss_value(x, y, p, _a, _b, _c, _d, POWERS: tl.constexpr):
    return (x - y) * (x - y)


@triton.jit
def mse_loss_grad(x, y, p, _a, _b, _c, _d, POWERS: tl.constexpr):
    return 2.0 * (x - y)


@triton.jit
def l1_loss_value(x, y, p, _a, _b, _c, _d, POWERS: tl.constexpr):
    return tl.abs(x - y)


@triton.jit
def l1_loss_grad(x, y, p, _a, _b, _c, _d, POWERS: tl.constexpr):
    d = x - y
    sign = tl.where(d < 0, -1.0, 0.0)  # at NaN 0 too, as torch's
    return tl.where(d > 0, 1.0, sign)


# beta = 0 is L1.
@triton.jit
def smooth_l1_loss_value(x, y, p, beta, _b, _c, _d, POWERS: tl.constexpr):
    d = tl.abs(x - y)
    valley = 0.5 * d * d / tl.where(beta > 0, beta, 1.0)
    return tl.where(d < beta, valley, d - 0.5 * beta)


@triton.jit
def smooth_l1_loss_grad(x, y, p, beta, _b, _c, _d, POWERS: tl.constexpr):
    d = x - y
    valley = d / tl.where(beta > 0, beta, 1.0)
    far = (tl.abs(d) >= beta) | (beta == 0)
    return tl.where(far, l1_loss_grad(x, y, p, beta, _b, _c, _d, POWERS), valley)


class Functor(NamedTuple):
    """A loss and what the launcher must know about it, as the constants of csrc/pointwise.h."""

    value: triton.JITFunction
    grad: triton.JITFunction
    classification: bool = False  # a negative target is a missing label
    weighted_mean: bool = False  # "mean" divides by the labelled sum of weight
    registers: int = 64  # of a thread, that 16 elements of it take on NVIDIA
    batch: int = 16  # elements that a thread loads at once
    exponents: tuple[str, ...] = ()  # the parameters that may become POWERS
    most: int = 7  # the largest of them; larger ones show an exponential's errors on labels' sides
    # value and grad where labels are on their own side
    sided: tuple[triton.JITFunction | None, triton.JITFunction | None] = (None, None)
    limits: tuple[tuple[str, float], ...] = ()  # there, the largest of other parameters

    @property
    def parameters(self) -> tuple[str, ...]:
        """The loss's own, by name."""
        names = list(inspect.signature(self.value.fn).parameters)
        return tuple(name for name in names[names.index("p") + 1 : -1] if name[0] != "_")

    def powers(self, params: Sequence[float]) -> tuple[int, ...]:
        """Returns the exponents where all are whole and small, from the parameters."""
        given = [params[self.parameters.index(name)] for name in self.exponents]
        whole = all(number in range(self.most + 1) for number in given)
        return tuple(map(int, given)) if whole else ()

    def covers(self, params: Sequence[float]) -> bool:
        """Tells whether labels of 0 and 1 may be on their own side, as `covers` of csrc/sides.h."""
        whole = len(self.powers(params)) == len(self.exponents)
        small = all(params[self.parameters.index(name)] <= most for name, most in self.limits)
        return whole and small


POINTWISE = {
    "binary_cross_entropy_with_logits": Functor(
        binary_cross_entropy_with_logits_value,
        binary_cross_entropy_with_logits_grad,
        classification=True,
        sided=(binary_cross_entropy_with_logits_sided_value, None),  # the other would be longer
    ),
    "sigmoid_focal_loss": Functor(
        sigmoid_focal_loss_value,
        sigmoid_focal_loss_grad,
        classification=True,
        registers=80,
        exponents=("gamma",),
        most=4,
        sided=(sigmoid_focal_loss_sided_value, sigmoid_focal_loss_sided_grad),
    ),
    "asymmetric_loss": Functor(
        asymmetric_loss_value,
        asymmetric_loss_grad,
        classification=True,
        registers=80,
        batch=8,
        exponents=("gamma_neg", "gamma_pos"),
        most=4,
        sided=(asymmetric_loss_sided_value, asymmetric_loss_sided_grad),
        limits=(("eps", 0.5),),
    ),
    "mse_loss": Functor(mse_loss_value, mse_loss_grad, weighted_mean=True),
    "l1_loss": Functor(l1_loss_value, l1_loss_grad, weighted_mean=True),
    "smooth_l1_loss": Functor(smooth_l1_loss_value, smooth_l1_loss_grad),
}
