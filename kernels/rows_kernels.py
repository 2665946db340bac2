"""The rows kernels: forward (per-row losses, partial sums that finish.py adds up) and backward.

A program takes BLOCK_N rows of all tensors, BLOCK_D elements at a time, and goes on to others.
Differences take up to four passes: norms, distances, how far gradients point along their rows,
gradients; see rows_samples.py.
"""
# ruff: noqa: RUF005 -- Triton can't unpack into a tuple.

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from .row_losses import SMALLEST_NORM
from .rows_samples import (
    difference,
    find_all,
    find_losses,
    find_scales,
    load,
    load_all,
    scaled,
    unit,
    walk,
    zeros,
)

# One compiled kernel serves every number of rows, stride and margin. Integers and None stand by
# themselves: in a tuple, the JIT makes constants of None and 1 whatever is said here. So there are
# three strides: the first rows', the second's, and that of all others.
_STRIDES = [f"stride_{k}" for k in range(3)]
_VARYING = [*_STRIDES, "same_stride", "margin_stride", "weight_stride", "samples", "units"]


@triton.jit(do_not_specialize=_VARYING)
def forward_kernel(
    rows, same, margin, sample_weight, scale, bias, elements, partials, denominator,
    stride_0, stride_1, stride_2, same_stride, margin_stride, weight_stride, samples, units,
    gaps, p, eps,
    VALUE: tl.constexpr, TERM: tl.constexpr, SLOPE: tl.constexpr, DISTANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, SQUARED: tl.constexpr, SWAP: tl.constexpr, SOFT: tl.constexpr,
    PAIRS: tl.constexpr, OTHERS: tl.constexpr, ALIGN: tl.constexpr, ONCE: tl.constexpr,
    HOLD: tl.constexpr, PRODUCTS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    strides, width, stop = walk(rows, stride_0, stride_1, stride_2, units, ONCE, ALIGN, BLOCK_D)
    row_terms = (same, same_stride, margin, margin_stride, scale, bias)
    total = tl.zeros([BLOCK_N, 1], tl.float64)
    count = tl.zeros([BLOCK_N, 1], tl.int32)
    for first in range(program.to(tl.int64) * BLOCK_N, samples, programs * BLOCK_N):
        row = first + tl.arange(0, BLOCK_N)[:, None].to(tl.int64)
        inside = row < samples
        where = (row, inside, tl.arange(0, BLOCK_D)[None, :], width)
        blocks = ()
        if PRODUCTS:
            blocks = load_all(rows, strides, where)
        distances, _, overlap, _, _ = find_all(
            rows, strides, where, stop, p, eps, blocks,
            TERM, DISTANCE, NORMALIZE, SQUARED, PAIRS, OTHERS, PRODUCTS, BLOCK_D,
        )  # fmt: skip
        value, _ = find_losses(distances, overlap, row_terms, gaps, where, VALUE, SWAP, SOFT)
        count += (inside & ((value > 0) | SOFT)).to(tl.int32)
        if sample_weight is not None:
            value *= tl.load(sample_weight + row * weight_stride, inside, other=0)
        if elements is not None:
            tl.store(elements + row, value.to(elements.dtype.element_ty), inside)
        total += tl.where(inside, value, 0.0)
    if elements is None:
        # What sums_kernel takes for the partial sums of one task.
        low = tl.sum(total).to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
        tl.store(partials + program, (tl.sum(count).to(tl.int64) << 32) | low)
    elif program == 0:
        tl.store(denominator, 1.0)


@triton.jit
def _gradient(
    rows, strides, scales, blocks, weights, k: tl.constexpr, where, start, p, eps,
    SLOPE: tl.constexpr, NORMALIZE: tl.constexpr, PAIRS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # dL/du_k, from the blocks of rows if they are held.
    gradient = zeros(where, BLOCK_D)
    for i in tl.static_range(len(PAIRS)):
        for side in tl.static_range(2):
            if PAIRS[i][side] == k:
                if len(blocks) > 0:
                    a = scaled(blocks[PAIRS[i][0]], scales, PAIRS[i][0], NORMALIZE)
                    b = scaled(blocks[PAIRS[i][1]], scales, PAIRS[i][1], NORMALIZE)
                else:
                    a = unit(rows, strides, scales, PAIRS[i][0], where, start, NORMALIZE)
                    b = unit(rows, strides, scales, PAIRS[i][1], where, start, NORMALIZE)
                slope = SLOPE(difference(a, b, eps, where, start), p)
                gradient += weights[i] * (slope if side == 0 else -slope)
    return gradient


@triton.jit
def _store(gradients, place: tl.constexpr, gradient, where, start, here):
    row, _, column, width = where
    out = gradients[place]
    at = out + row * width + start + column
    tl.store(at, gradient.to(out.dtype.element_ty), here & (column < width - start))


@triton.jit
def _store_products(
    gradients, blocks, reciprocals, cosines, weights, where, here, PAIRS: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    # Every gradient is a sum of the rows: a pair's part of dL/da is r w (cos u_a - u_b).
    for k in tl.static_range(len(blocks)):
        if PLACES[k] >= 0:
            gradient = tl.zeros_like(blocks[k])
            own = tl.zeros_like(reciprocals[k])
            for i in tl.static_range(len(PAIRS)):
                for side in tl.static_range(2):
                    if PAIRS[i][side] == k:
                        factor = weights[i] * reciprocals[k]
                        own += factor * cosines[i] * reciprocals[k]
                        factor *= reciprocals[PAIRS[i][1 - side]]
                        gradient = tl.fma(-factor, blocks[PAIRS[i][1 - side]], gradient)
            gradient = tl.fma(own, blocks[k], gradient)
            _store(gradients, PLACES[k], gradient, where, 0, here)


@triton.jit
def _store_differences(
    rows, strides, scales, weights, gradients, where, stop, here, p, eps, SLOPE: tl.constexpr,
    NORMALIZE: tl.constexpr, PAIRS: tl.constexpr, PLACES: tl.constexpr, HOLD: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Normalising takes from a gradient what points along its row.
    along = ()
    if NORMALIZE:
        for k in tl.static_range(len(rows)):
            sums = zeros(where, BLOCK_D)
            if PLACES[k] >= 0:
                for start in range(0, stop, BLOCK_D):
                    gradient = _gradient(
                        rows, strides, scales, (), weights, k, where, start, p, eps,
                        SLOPE, NORMALIZE, PAIRS, BLOCK_D,
                    )  # fmt: skip
                    u = unit(rows, strides, scales, k, where, start, NORMALIZE)
                    sums = tl.fma(gradient, u, sums)
            along = along + (tl.sum(sums, 1, keep_dims=True),)

    for start in range(0, stop, BLOCK_D):
        # Held, all are loaded before the first store, which later loads could not be merged across.
        blocks = ()
        if HOLD:
            for k in tl.static_range(len(rows)):
                blocks = blocks + (load(rows, strides, k, where, start),)
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
                        x = load(rows, strides, k, where, start)
                    # Of x, not of u, whose rounding is not along the row.
                    radial = along[k] * scales[k][0]
                    gradient = scales[k][0] * tl.fma(-radial, x, gradient)
                    gradient = tl.where(scales[k][2] < SMALLEST_NORM, 0.0, gradient)
                _store(gradients, PLACES[k], gradient, where, start, here)


@triton.jit(do_not_specialize=[*_VARYING, "grad_stride"])
def backward_kernel(
    rows, same, margin, sample_weight, scale, bias, grad_loss, denominator, gradients,
    stride_0, stride_1, stride_2, same_stride, margin_stride, weight_stride, samples, units,
    grad_stride, gaps, p, eps,
    VALUE: tl.constexpr, TERM: tl.constexpr, SLOPE: tl.constexpr, DISTANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, SQUARED: tl.constexpr, SWAP: tl.constexpr, SOFT: tl.constexpr,
    PAIRS: tl.constexpr, OTHERS: tl.constexpr, ALIGN: tl.constexpr, ONCE: tl.constexpr,
    HOLD: tl.constexpr, PRODUCTS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    # PLACES: where among the gradients each tensor's is; -1 if it is not wanted.
    strides, width, stop = walk(rows, stride_0, stride_1, stride_2, units, ONCE, ALIGN, BLOCK_D)
    row_terms = (same, same_stride, margin, margin_stride, scale, bias)
    divisor = tl.load(denominator)
    # Where rows are not held a program has one block: for a loop AMD would lack scalar registers.
    begin = tl.program_id(0).to(tl.int64) * BLOCK_N
    end = samples if HOLD else begin + 1
    for first in range(begin, end, tl.num_programs(0) * BLOCK_N if HOLD else BLOCK_N):
        row = first + tl.arange(0, BLOCK_N)[:, None].to(tl.int64)
        inside = row < samples
        where = (row, inside, tl.arange(0, BLOCK_D)[None, :], width)
        blocks = ()
        if PRODUCTS:
            blocks = load_all(rows, strides, where)
        distances, chains, overlap, scales, products = find_all(
            rows, strides, where, stop, p, eps, blocks,
            TERM, DISTANCE, NORMALIZE, SQUARED, PAIRS, OTHERS, PRODUCTS, BLOCK_D,
        )  # fmt: skip
        _, slopes = find_losses(distances, overlap, row_terms, gaps, where, VALUE, SWAP, SOFT)
        coefficient = tl.load(grad_loss + row * grad_stride, inside, other=0).to(tl.float32)
        coefficient /= divisor
        if sample_weight is not None:
            coefficient *= tl.load(sample_weight + row * weight_stride, inside, other=0)
        weights = ()
        for i in tl.static_range(len(PAIRS)):
            weights = weights + (coefficient * slopes[i] * chains[i],)
        if PRODUCTS:
            near, some, reciprocals, cosines = products
            _store_products(
                gradients, blocks, reciprocals, cosines, weights, where, inside & (near == 0),
                PAIRS, PLACES,
            )  # fmt: skip
            if some:
                exact = find_scales(rows, strides, where, stop, True, BLOCK_D)
                _store_differences(
                    rows, strides, exact, weights, gradients, where, stop, inside & near, p, eps,
                    SLOPE, NORMALIZE, PAIRS, PLACES, HOLD, BLOCK_D,
                )  # fmt: skip
        else:
            _store_differences(
                rows, strides, scales, weights, gradients, where, stop, inside, p, eps,
                SLOPE, NORMALIZE, PAIRS, PLACES, HOLD, BLOCK_D,
            )  # fmt: skip
