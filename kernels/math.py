"""Numerics in Triton: the mirror of csrc/math.h, name by name, on float32 blocks.

Where an instruction of NVIDIA's is there alone, of its approximations, another takes its place.
"""

import triton
import triton.language as tl


@triton.jit
def at_least(x, least):
    # max(x, least), but NaN where x is.
    return tl.maximum(x, least, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def exp_rounded(x):
    # exp(x) for x <= 0 to 1e-7, where the rounding of exp_minus_abs's |x| log2(e) would show.
    x = tl.where(x < -87.3, -87.3, x)
    # 1.5 * 2^23 + 127: adding it rounds to an integer and leaves 2^n's exponent bits below.
    shifted = x * 1.44269504 + 12583039.0
    n = shifted - 12583039.0
    r = (x - n * 0.693359375) - n * -2.12194440e-4
    p = tl.full(x.shape, 1.3950480e-3, tl.float32)
    p = p * r + 8.3688824e-3
    p = p * r + 4.1666206e-2
    p = p * r + 1.6666520e-1
    p = p * r + 0.5
    p = p * r * r + r + 1.0
    power = (shifted.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
    return p * power  # a product, which NaN passes


@triton.jit
def exp_compensated(x):
    # The same to 5e-7: what x log2(e) is rounded by becomes a factor.
    x = at_least(x, -87.3)
    product = x * 1.44269504
    power = tl.exp2(product)
    return tl.fma(power, tl.fma(product, -0.693147181, x), power)


@triton.jit
def exp_minus_abs(x):
    # exp(-|x|) to |x| ulp. A product of |x|, because -|x| would be an instruction of its own.
    return tl.exp2(tl.abs(x) * -1.44269504)


@triton.jit
def log1p_unit(e):
    # log(1 + e) for e in [0, 1], relative error 3.5e-7, and log 2 at 1: Triton has no log1p that
    # interpreter, NVIDIA and AMD share, and log(1 + e) loses every digit of a small e.
    p = -8.3844969e-3
    p = p * e + 4.36198749e-2
    p = p * e - 1.07146315e-1
    p = p * e + 1.77176371e-1
    p = p * e - 2.44898245e-1
    p = p * e + 3.32755208e-1
    p = p * e - 4.99975055e-1
    p = p * e + 9.99999821e-1
    return p * e


@triton.jit
def positive(u):
    # Something to divide by where 0 can only be divided into 0. With a digit less, the smallest
    # normal number would be of 64 bits.
    return at_least(u, 1.1754944e-38)


@triton.jit
def reciprocal(u):
    # 1 / u for u in [2^-126, 2^126], to an ulp: a third of the instructions of a division, which
    # scales whatever may come.
    root = tl.rsqrt(u)
    fast = root * root
    return tl.fma(fast, tl.fma(-u, fast, 1.0), fast)


@triton.jit
def divide(a, b):
    return a * reciprocal(b)


@triton.jit
def binary(u):
    # u, a positive normal number, as 2^n times what log1p's series takes: n and that logarithm; NaN
    # stays NaN.
    bits = u.to(tl.int32, bitcast=True)
    steps = (bits - 0x3F3504F3) >> 23
    f = (bits - (steps << 23)).to(tl.float32, bitcast=True) - 1.0  # in [-.29, .41]
    f += u - u  # the bits of a NaN look like any number's
    f2 = f * f
    p = tl.full(f.shape, 8.70045280e-2, tl.float32)
    p = p * f - 1.42674915e-1
    p = p * f + 1.49147643e-1
    p = p * f - 1.65775840e-1
    p = p * f + 1.99630641e-1
    p = p * f - 2.50013371e-1
    p = p * f + 3.33339107e-1
    return steps.to(tl.float32), p * f * f2 - 0.5 * f2 + f


@triton.jit
def log_positive(u):
    return tl.log(positive(u))


@triton.jit
def log_hit(hit, miss, least):
    # log(max(hit, least)), in the digits of whichever is small: hit or miss, which is 1 - hit.
    floored = hit < least
    lost = (1.0 - hit) - miss  # what rounding took from a hit of nearly 1
    return log_positive(tl.where(floored, least, hit)) + tl.where(floored, 0.0, lost)


@triton.jit
def log_inverse(inverse, odds):
    # -log(hit) from 1 / hit and the odds of a miss, (1 - hit) / hit. One series serves small odds
    # and the digits of the inverse of large ones: tl.log2 takes 20 instructions.
    bits = inverse.to(tl.int32, bitcast=True)
    n = ((bits >> 23) + (0x4B400000 - 127)).to(tl.float32, bitcast=True) - 12582912.0
    f = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
    large = odds > 0.9
    return tl.where(large, n * 0.693147181, 0.0) + log1p_unit(tl.where(large, f, odds))


@triton.jit
def exp2_sum(high, low):
    # 2^(high + low). g log2(u) has up to 100 units in front of the point: rounded as one, it would
    # cost the fraction. exp2(x + rest) is exp2(x) (1 + ln 2 rest).
    total = high + low
    rest = (high - total) + low
    power = tl.exp2(total)
    return tl.fma(power, rest * 0.693147181, power)


@triton.jit
def pow_whole(u, POWER: tl.constexpr):
    # u^POWER for 0, 1, ... 7, by squares.
    square = u * u
    found = tl.full(u.shape, 1.0, tl.float32)
    if POWER % 2 == 1:
        found = u
    if POWER // 2 % 2 == 1:
        found = found * square
    if POWER >= 4:
        found = found * (square * square)
    return found


@triton.jit
def pow_unit(u, g, POWERS: tl.constexpr):
    # u^g for u in [0, 1] and g >= 0, with 0^0 = 1. POWERS: g, where it is one for all and whole.
    if len(POWERS) == 1:
        return pow_whole(u, POWERS[0])
    else:
        n, log = binary(positive(u))
        high = g * n
        power = exp2_sum(high, tl.fma(g, n, -high) + g * log * 1.44269504)
        # Exponents may differ between elements (asymmetric); the small ones stay exact.
        power = tl.where(g == 4, (u * u) * (u * u), power)
        power = tl.where(g == 2, u * u, power)
        power = tl.where(g == 1, u, power)
        return tl.where(g == 0, 1.0, power)


@triton.jit
def bounded(x):
    # x, an infinite one as a number so large that it makes no difference: 0 times it is 0.
    return at_least(-at_least(-x, -1e30), -1e30)


@triton.jit
def smaller_sigmoid(exp_abs):
    return divide(exp_abs, 1.0 + exp_abs)


@triton.jit
def sigmoid_pair(x, exp_abs):
    # sigmoid(x), sigmoid(-x): no positive number is exponentiated, and only the larger is formed as
    # 1 minus the other, which halves its error against 1 / (1 + exp(-|x|)).
    smaller = smaller_sigmoid(exp_abs)
    larger = 1.0 - smaller
    return tl.where(x < 0, smaller, larger), tl.where(x < 0, larger, smaller)


@triton.jit
def logistic_sigmoid(x):
    return sigmoid_pair(x, exp_minus_abs(x))


@triton.jit
def plus_beyond(x, exp_abs, c):
    # sigmoid(x) - c, without the larger one's rounding: in one quotient.
    over = tl.where(x < 0, 1.0 - c, -c)
    rest = tl.where(x < 0, -c, 1.0 - c)
    return divide(tl.fma(exp_abs, over, rest), 1.0 + exp_abs)


@triton.jit
def logistic_softplus(x):
    # softplus(x), softplus(-x); selects, not tl.maximum, so that NaN passes.
    tail = log1p_unit(exp_minus_abs(x))
    return tail + tl.where(x < 0, 0.0, x), tail + tl.where(x < 0, -x, 0.0)
