"""Numerics in Triton: the mirror of csrc/math.h, name by name, on float32 blocks."""

import triton
import triton.language as tl


@triton.jit
def exp_rounded(x):
    # exp(x) for x <= 0 to 1e-7, where the rounding of exp_nonpositive's x log2(e) would show.
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
def exp_nonpositive(x):
    return tl.exp(x)


@triton.jit
def log1p_unit(e):
    # The minimax polynomial of csrc/math.h for e in [0, 1], relative error 2e-7: Triton has no
    # log1p that interpreter, NVIDIA and AMD share, and log(1 + e) loses every digit of a small e.
    p = 5.23269003e-3
    p = p * e - 2.95052192e-2
    p = p * e + 7.82259175e-2
    p = p * e - 1.36632425e-1
    p = p * e + 1.91060050e-1
    p = p * e - 2.48429817e-1
    p = p * e + 3.33190967e-1
    p = p * e - 4.99994931e-1
    p = p * e + 9.99999970e-1
    return p * e


@triton.jit
def positive(u):
    # Something to divide by where 0 can only be divided into 0. tl.maximum would swallow NaN.
    return tl.where(u < 1.17549435e-38, 1.17549435e-38, u)


@triton.jit
def binary(u):
    # u, a positive normal number, as 2^n times what log1p's series takes: n and that logarithm.
    bits = u.to(tl.int32, bitcast=True)
    steps = (bits - 0x3F3504F3) >> 23
    f = (bits - (steps << 23)).to(tl.float32, bitcast=True) - 1.0  # in [-.29, .41]
    f += u - u  # the bits of a NaN look like any number's
    p = tl.full(u.shape, 8.70045280e-2, tl.float32)
    p = p * f - 1.42674915e-1
    p = p * f + 1.49147643e-1
    p = p * f - 1.65775840e-1
    p = p * f + 1.99630641e-1
    p = p * f - 2.50013371e-1
    p = p * f + 3.33339107e-1
    f2 = f * f
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
def exp2_sum(high, low):
    # 2^(high + low). g log2(u) has up to 100 units in front of the point: rounded as one, it would
    # cost the fraction. exp2(x + rest) is exp2(x) (1 + ln 2 rest).
    total = high + low
    rest = (high - total) + low
    power = tl.exp2(total)
    return tl.fma(power, rest * 0.693147181, power)


@triton.jit
def pow_unit(u, g, POWER: tl.constexpr):
    # u^g for u in [0, 1] and g >= 0, with 0^0 = 1.
    if POWER == 0:
        return tl.full(u.shape, 1.0, tl.float32)
    elif POWER == 1:
        return u
    elif POWER == 2:
        return u * u
    elif POWER == 4:
        return (u * u) * (u * u)
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
    x = tl.where(x > 1e30, 1e30, x)
    return tl.where(x < -1e30, -1e30, x)


@triton.jit
def sigmoid_pair(x, exp_abs):
    # sigmoid(x), sigmoid(-x): no positive number is exponentiated, and only the larger is formed as
    # 1 minus the other, which halves its error against 1 / (1 + exp(-|x|)).
    smaller = exp_abs / (1.0 + exp_abs)
    larger = 1.0 - smaller
    return tl.where(x < 0, smaller, larger), tl.where(x < 0, larger, smaller)


@triton.jit
def logistic_sigmoid(x):
    return sigmoid_pair(x, exp_nonpositive(-tl.abs(x)))


@triton.jit
def plus_beyond(x, exp_abs, c):
    # sigmoid(x) - c, without the larger one's rounding: in one quotient.
    over = tl.where(x < 0, 1.0 - c, -c)
    rest = tl.where(x < 0, -c, 1.0 - c)
    return tl.fma(exp_abs, over, rest) / (1.0 + exp_abs)


@triton.jit
def logistic_softplus(x):
    # softplus(x), softplus(-x); selects, not tl.maximum, so that NaN passes.
    tail = log1p_unit(exp_nonpositive(-tl.abs(x)))
    return tail + tl.where(x < 0, 0.0, x), tail + tl.where(x < 0, -x, 0.0)
