"""The rows kernels: forward (per-row losses, partial sums that finish.py adds up) and backward.

A program takes BLOCK_N rows of all tensors, BLOCK_D elements at a time, in up to four passes:
norms, distances, how far gradients point along their rows, gradients. Rows that fit a block (ONCE)
are loaded once: the compiler unrolls loops of one step and merges equal loads. Longer rows, and
long lists of tensors, come back from L1 and L2 in each pass.

Compiled without fused multiply-adds but those written out: w t_1 - w t_2, fused on one side, would
not be 0 where two rows are equal.
"""
# ruff: noqa: RUF005 -- Triton can't unpack into a tuple.

import triton
import triton.language as tl

from .row_losses import SMALLEST_NORM, inverse, square_root


@triton.jit
def _walk(
    rows, stride_0, stride_1, stride_2, units,
    ONCE: tl.constexpr, ALIGN: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # The strides and D as the multiples of ALIGN they are, which the compiler must see to load 16
    # bytes at once; and where the passes stop, a constant if after one step.
    width = units.to(tl.int64) * ALIGN
    strides = (stride_0.to(tl.int64) * ALIGN, stride_1.to(tl.int64) * ALIGN)
    for _ in tl.static_range(2, len(rows)):
        strides = strides + (stride_2.to(tl.int64) * ALIGN,)
    return strides, width, BLOCK_D if ONCE else width


@triton.jit
def _load(rows, strides, k: tl.constexpr, where, start):
    row, inside, column, width = where
    at = rows[k] + row * strides[k] + start + column
    return tl.load(at, inside & (column < width - start), other=0).to(tl.float32)


@triton.jit
def _scaled(x, scales, k: tl.constexpr, NORMALIZE: tl.constexpr):
    if NORMALIZE:
        # x / |x|, rounded once: the remainder of the product corrects it.
        u = x * scales[k][0]
        x = tl.fma(tl.fma(-u, scales[k][1], x), scales[k][0], u)
    return x


@triton.jit
def _unit(rows, strides, scales, k: tl.constexpr, where, start, NORMALIZE: tl.constexpr):
    return _scaled(_load(rows, strides, k, where, start), scales, k, NORMALIZE)


@triton.jit
def _difference(a, b, eps, where, start):
    return a - b + tl.where(where[2] < where[3] - start, eps, 0.0)


@triton.jit
def _zeros(where, WIDTH: tl.constexpr):
    return tl.zeros([where[0].shape[0], WIDTH], tl.float32)


@triton.jit
def _scales(rows, strides, where, stop, NORMALIZE: tl.constexpr, BLOCK_D: tl.constexpr):
    # Per tensor (BLOCK_N, 1): the factor r, what 1 / r rounds to, and the norm.
    scales = ()
    if NORMALIZE:
        for k in tl.static_range(len(rows)):
            sums = _zeros(where, BLOCK_D)
            for start in range(0, stop, BLOCK_D):
                x = _load(rows, strides, k, where, start)
                sums = tl.fma(x, x, sums)
            norm = square_root(tl.sum(sums, 1, keep_dims=True))
            divisor = tl.where(norm < SMALLEST_NORM, SMALLEST_NORM, norm)
            scales = scales + ((inverse(divisor), divisor, norm),)
    return scales


@triton.jit
def _losses(
    rows, strides, scales, row_terms, gaps, where, stop, p, eps,
    VALUE: tl.constexpr, TERM: tl.constexpr, DISTANCE: tl.constexpr, NORMALIZE: tl.constexpr,
    SQUARED: tl.constexpr, SWAP: tl.constexpr, SOFT: tl.constexpr, PAIRS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    # The losses, their derivatives by the pairs' distances, and dd/dt / slope(t) of each.
    distances = ()
    chains = ()
    for i in tl.static_range(len(PAIRS)):
        sums = _zeros(where, BLOCK_D)
        for start in range(0, stop, BLOCK_D):
            a = _unit(rows, strides, scales, PAIRS[i][0], where, start, NORMALIZE)
            b = _unit(rows, strides, scales, PAIRS[i][1], where, start, NORMALIZE)
            sums += TERM(_difference(a, b, eps, where, start), p)
        distance, chain = DISTANCE(tl.sum(sums, 1, keep_dims=True), p, SQUARED)
        distances = distances + (distance,)
        chains = chains + (chain,)
    same, same_stride, margin, margin_stride, scale, bias = row_terms
    row, inside, _, _ = where
    if margin is not None:
        gaps = (tl.load(margin + row * margin_stride, inside, other=0),)
    alike = inside
    if same is not None:
        alike = tl.load(same + row * same_stride, inside, other=0) != 0
    weight = 1.0
    if scale is not None:
        weight = tl.load(scale)
    shift = 0.0
    if bias is not None:
        shift = tl.load(bias)
    overlap = 2.0
    if NORMALIZE:
        u_0 = scales[0][2] / scales[0][1]
        u_1 = scales[1][2] / scales[1][1]
        overlap = u_0 * u_0 + u_1 * u_1
    value, slopes = VALUE(distances, gaps, alike, weight, shift, overlap, SWAP, SOFT)
    return value, slopes, chains


# One compiled kernel serves every number of rows, stride and margin. Integers and None stand by
# themselves: in a tuple, the JIT makes constants of None and 1 whatever is said here. So there are
# three strides: the first rows', the second's, and that of all others.
_STRIDES = [f"stride_{k}" for k in range(3)]
_VARYING = [*_STRIDES, "same_stride", "margin_stride", "weight_stride", "samples", "units"]


@triton.jit(do_not_specialize=_VARYING)
def forward_kernel(
    rows, stride_0, stride_1, stride_2, same, margin, sample_weight, scale, bias,
    same_stride, margin_stride, weight_stride, gaps, p, eps, samples, units,
    elements, scratch, denominator,
    VALUE: tl.constexpr, TERM: tl.constexpr, SLOPE: tl.constexpr, DISTANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, SQUARED: tl.constexpr, SWAP: tl.constexpr, SOFT: tl.constexpr,
    PAIRS: tl.constexpr, ALIGN: tl.constexpr, ONCE: tl.constexpr, HOLD: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    strides, width, stop = _walk(rows, stride_0, stride_1, stride_2, units, ONCE, ALIGN, BLOCK_D)
    row_terms = (same, same_stride, margin, margin_stride, scale, bias)
    total = tl.zeros([BLOCK_N, 1], tl.float64)
    count = tl.zeros([BLOCK_N, 1], tl.int32)
    for first in range(program.to(tl.int64) * BLOCK_N, samples, programs * BLOCK_N):
        row = first + tl.arange(0, BLOCK_N)[:, None].to(tl.int64)
        inside = row < samples
        where = (row, inside, tl.arange(0, BLOCK_D)[None, :], width)
        scales = _scales(rows, strides, where, stop, NORMALIZE, BLOCK_D)
        value, _, _ = _losses(
            rows, strides, scales, row_terms, gaps, where, stop, p, eps,
            VALUE, TERM, DISTANCE, NORMALIZE, SQUARED, SWAP, SOFT, PAIRS, BLOCK_D,
        )  # fmt: skip
        count += (inside & ((value > 0) | SOFT)).to(tl.int32)
        if sample_weight is not None:
            value *= tl.load(sample_weight + row * weight_stride, inside, other=0)
        if elements is not None:
            tl.store(elements + row, value.to(elements.dtype.element_ty), inside)
        total += tl.where(inside, value, 0.0)
    if elements is None:
        # What finish_kernel takes for the partial sums of one task.
        tl.store(scratch + 1 + program, tl.sum(total).to(tl.float32).to(tl.int32, bitcast=True))
        tl.store(scratch + 1 + programs + program, tl.sum(count))
        if program == 0:
            tl.store(scratch, 0)
    elif program == 0:
        tl.store(denominator, 1.0)


@triton.jit
def _gradient(
    rows, strides, scales, blocks, weights, k: tl.constexpr, where, start, p, eps,
    SLOPE: tl.constexpr, NORMALIZE: tl.constexpr, PAIRS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # dL/du_k, from the blocks of rows if they are held.
    gradient = _zeros(where, BLOCK_D)
    for i in tl.static_range(len(PAIRS)):
        for side in tl.static_range(2):
            if PAIRS[i][side] == k:
                if len(blocks) > 0:
                    a = _scaled(blocks[PAIRS[i][0]], scales, PAIRS[i][0], NORMALIZE)
                    b = _scaled(blocks[PAIRS[i][1]], scales, PAIRS[i][1], NORMALIZE)
                else:
                    a = _unit(rows, strides, scales, PAIRS[i][0], where, start, NORMALIZE)
                    b = _unit(rows, strides, scales, PAIRS[i][1], where, start, NORMALIZE)
                slope = SLOPE(_difference(a, b, eps, where, start), p)
                gradient += weights[i] * (slope if side == 0 else -slope)
    return gradient


@triton.jit(do_not_specialize=[*_VARYING, "grad_stride"])
def backward_kernel(
    rows, stride_0, stride_1, stride_2, same, margin, sample_weight, scale, bias,
    same_stride, margin_stride, weight_stride, gaps, p, eps, samples, units,
    grad_loss, grad_stride, denominator, gradients,
    VALUE: tl.constexpr, TERM: tl.constexpr, SLOPE: tl.constexpr, DISTANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, SQUARED: tl.constexpr, SWAP: tl.constexpr, SOFT: tl.constexpr,
    PAIRS: tl.constexpr, ALIGN: tl.constexpr, ONCE: tl.constexpr, HOLD: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    # PLACES: where among the gradients each tensor's is; -1 if it is not wanted.
    strides, width, stop = _walk(rows, stride_0, stride_1, stride_2, units, ONCE, ALIGN, BLOCK_D)
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    inside = row < samples
    where = (row, inside, tl.arange(0, BLOCK_D)[None, :], width)
    scales = _scales(rows, strides, where, stop, NORMALIZE, BLOCK_D)
    _, slopes, chains = _losses(
        rows, strides, scales, (same, same_stride, margin, margin_stride, scale, bias), gaps,
        where, stop, p, eps, VALUE, TERM, DISTANCE, NORMALIZE, SQUARED, SWAP, SOFT, PAIRS, BLOCK_D,
    )  # fmt: skip
    coefficient = tl.load(grad_loss + row * grad_stride, inside, other=0).to(tl.float32)
    coefficient /= tl.load(denominator)
    if sample_weight is not None:
        coefficient *= tl.load(sample_weight + row * weight_stride, inside, other=0)
    weights = ()
    for i in tl.static_range(len(PAIRS)):
        weights = weights + (coefficient * slopes[i] * chains[i],)

    # Normalising takes from a gradient what points along its row.
    along = ()
    if NORMALIZE:
        for k in tl.static_range(len(rows)):
            sums = _zeros(where, BLOCK_D)
            if PLACES[k] >= 0:
                for start in range(0, stop, BLOCK_D):
                    gradient = _gradient(
                        rows, strides, scales, (), weights, k, where, start, p, eps,
                        SLOPE, NORMALIZE, PAIRS, BLOCK_D,
                    )  # fmt: skip
                    u = _unit(rows, strides, scales, k, where, start, NORMALIZE)
                    sums = tl.fma(gradient, u, sums)
            along = along + (tl.sum(sums, 1, keep_dims=True),)

    for start in range(0, stop, BLOCK_D):
        # Held, all are loaded before the first store, which later loads could not be merged across.
        blocks = ()
        if HOLD:
            for k in tl.static_range(len(rows)):
                blocks = blocks + (_load(rows, strides, k, where, start),)
        for k in tl.static_range(len(rows)):
            if PLACES[k] >= 0:
                gradient = _gradient(
                    rows, strides, scales, blocks, weights, k, where, start, p, eps,
                    SLOPE, NORMALIZE, PAIRS, BLOCK_D,
                )  # fmt: skip
                if NORMALIZE:
                    if HOLD:
                        x = blocks[k]
                    else:
                        x = _load(rows, strides, k, where, start)
                    # Of x, not of u, whose rounding is not along the row.
                    radial = along[k] * scales[k][0]
                    gradient = scales[k][0] * tl.fma(-radial, x, gradient)
                    gradient = tl.where(scales[k][2] < SMALLEST_NORM, 0.0, gradient)
                out = gradients[PLACES[k]]
                at = out + row * width + start + where[2]
                tl.store(at, gradient.to(out.dtype.element_ty), inside & (where[2] < width - start))
