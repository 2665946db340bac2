"""Losses of a label that is 0 or 1, on its own side: the mirror of csrc/sides.h, name by name.

A functor sees what those of losses.py do, but s, the logit of a miss, which is x where the label is
0 and -x where it is 1, and `positive`, whether it is 1. Gradients are with respect to s. What value
and grad share is found by a function that ends in _side. Exponents are those of POWERS.
"""

import triton
import triton.language as tl

from .math import (
    at_least,
    exp_compensated,
    exp_minus_abs,
    log1p_unit,
    log_inverse,
    pow_whole,
    reciprocal,
)


@triton.jit
def positive_part(s):
    # max(s, 0), but NaN at -inf, as 0 times the loss of the other side is in the specification.
    return 0.5 * tl.abs(s) + 0.5 * s


@triton.jit
def binary_cross_entropy_with_logits_sided_value(
    s, positive, p, _a, _b, _c, _d, POWERS: tl.constexpr
):
    tail = log1p_unit(exp_minus_abs(s))
    return tl.where(positive, p, 1.0) * (tail + positive_part(s))


# What value and grad share: exp(-|s|), the probability of a miss and that of a hit.
@triton.jit
def sigmoid_focal_loss_side(s):
    exp_abs = exp_minus_abs(s)
    larger = reciprocal(1.0 + exp_abs)
    smaller = exp_abs * larger
    below = s < 0
    miss = tl.where(below, smaller, larger)
    hit = tl.where(below, larger, smaller)
    return exp_abs, miss, hit


# alpha is off when negative.
@triton.jit
def sigmoid_focal_loss_balance(positive, p, alpha):
    off = alpha < 0
    return tl.where(positive, p * tl.where(off, 1.0, alpha), tl.where(off, 1.0, 1.0 - alpha))


@triton.jit
def sigmoid_focal_loss_sided_value(s, positive, p, alpha, gamma, _c, _d, POWERS: tl.constexpr):
    exp_abs, miss, _ = sigmoid_focal_loss_side(s)
    power = pow_whole(miss, POWERS[0])
    cross_entropy = log1p_unit(exp_abs) + positive_part(s)
    return sigmoid_focal_loss_balance(positive, p, alpha) * cross_entropy * power


@triton.jit
def sigmoid_focal_loss_sided_grad(s, positive, p, alpha, gamma, _c, _d, POWERS: tl.constexpr):
    exp_abs, miss, hit = sigmoid_focal_loss_side(s)
    power = pow_whole(miss, POWERS[0])
    excess = tl.minimum(tl.maximum(s, 0.0), 1e30)  # 0 times it is 0
    cross_entropy = log1p_unit(exp_abs) + excess
    weight = sigmoid_focal_loss_balance(positive, p, alpha)
    return weight * power * (miss + gamma * hit * cross_entropy)


# What value and grad share: the probability of a miss, a negative's clipped; what is left of 1, at
# least eps in the inverse; miss / hit; d miss / ds, and miss before it was clipped; and
# -log(max(hit, eps)).
@triton.jit
def asymmetric_loss_side(s, positive, clip, eps):
    all = tl.maximum(clip, 0.0)
    clip = tl.where(positive, 0.0, all)
    rest = tl.where(positive, 1.0, 1.0 - all)
    exp_abs = exp_compensated(-tl.abs(s))  # gamma multiplies a relative error
    larger = reciprocal(1.0 + exp_abs)
    smaller = exp_abs * larger
    below = s < 0
    slope = smaller * larger
    # sigmoid(s) - clip, but in one quotient: near 0 it would show the rounding of the other.
    beyond = larger * tl.where(below, tl.fma(exp_abs, rest, -clip), tl.fma(exp_abs, -clip, rest))
    hit = tl.where(below, larger, smaller) + clip
    miss = at_least(beyond, 0.0)
    inverse = reciprocal(at_least(hit, tl.maximum(eps, 1.1754944e-38)))
    odds = miss * inverse
    minus_log = log_inverse(inverse, odds)
    return miss, hit, inverse, odds, slope, beyond, minus_log


@triton.jit
def asymmetric_loss_sided_value(
    s, positive, p, gamma_neg, gamma_pos, clip, eps, POWERS: tl.constexpr
):
    miss, _, _, _, _, _, minus_log = asymmetric_loss_side(s, positive, clip, eps)
    power = tl.where(positive, pow_whole(miss, POWERS[1]), pow_whole(miss, POWERS[0]))
    return minus_log * power


@triton.jit
def asymmetric_loss_sided_grad(
    s, positive, p, gamma_neg, gamma_pos, clip, eps, POWERS: tl.constexpr
):
    miss, hit, inverse, odds, slope, beyond, minus_log = asymmetric_loss_side(
        s, positive, clip, eps
    )
    power = tl.where(
        positive,
        pow_whole(miss, POWERS[1] - (POWERS[1] > 0)),
        pow_whole(miss, POWERS[0] - (POWERS[0] > 0)),
    )
    # Of constants: the compiler finds where none is 0.
    gamma = tl.where(positive, POWERS[1] * 1.0, POWERS[0] * 1.0)
    ratio = tl.where((gamma == 0) & (beyond >= 0), inverse, odds)
    by_hit = tl.where(hit < eps, 0.0, ratio)
    return slope * power * (by_hit + gamma * minus_log)
