"""What the rows kernels find out about a block of samples: norms, distances, losses.

Normalised rows that fit a block are loaded once, and their products with each other summed in one
pass (PRODUCTS): distances and gradients follow, to float32's digits, unless two rows are near each
other. There, and for all else, differences are summed. Rows that fit a block (ONCE) are loaded once
there, too: the compiler unrolls loops of one step and merges equal loads. Longer rows, and long
lists of tensors, come back from L1 and L2 in each pass.

Compiled without fused multiply-adds but those written out: w t_1 - w t_2, fused on one side, would
not be 0 where two rows are equal.
"""
# ruff: noqa: RUF005 -- Triton can't unpack into a tuple.

import triton
import triton.language as tl

from .row_losses import SMALLEST_NORM, inverse, square_root

# Below this squared distance of unit rows, 2 - 2 cos and what follows from it lose digits.
NEAR = tl.constexpr(0.5)


@triton.jit
def walk(
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
def load(rows, strides, k: tl.constexpr, where, start):
    row, inside, column, width = where
    at = rows[k] + row * strides[k] + start + column
    return tl.load(at, inside & (column < width - start), other=0).to(tl.float32)


@triton.jit
def scaled(x, scales, k: tl.constexpr, NORMALIZE: tl.constexpr):
    if NORMALIZE:
        # x / |x|, rounded once: the remainder of the product corrects it.
        u = x * scales[k][0]
        x = tl.fma(tl.fma(-u, scales[k][1], x), scales[k][0], u)
    return x


@triton.jit
def unit(rows, strides, scales, k: tl.constexpr, where, start, NORMALIZE: tl.constexpr):
    return scaled(load(rows, strides, k, where, start), scales, k, NORMALIZE)


@triton.jit
def difference(a, b, eps, where, start):
    return a - b + tl.where(where[2] < where[3] - start, eps, 0.0)


@triton.jit
def zeros(where, WIDTH: tl.constexpr):
    return tl.zeros([where[0].shape[0], WIDTH], tl.float32)


@triton.jit
def find_scales(rows, strides, where, stop, NORMALIZE: tl.constexpr, BLOCK_D: tl.constexpr):
    # Per tensor (BLOCK_N, 1): the factor r, what 1 / r rounds to, and the norm.
    scales = ()
    if NORMALIZE:
        for k in tl.static_range(len(rows)):
            sums = zeros(where, BLOCK_D)
            for start in range(0, stop, BLOCK_D):
                x = load(rows, strides, k, where, start)
                sums = tl.fma(x, x, sums)
            norm = square_root(tl.sum(sums, 1, keep_dims=True))
            divisor = tl.where(norm < SMALLEST_NORM, SMALLEST_NORM, norm)
            scales = scales + ((inverse(divisor), divisor, norm),)
    return scales


@triton.jit
def _distances(
    rows, strides, scales, where, stop, p, eps, TERM: tl.constexpr, DISTANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, SQUARED: tl.constexpr, PAIRS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # From differences: the pairs' distances, and dd/dt / slope(t) of each.
    distances = ()
    chains = ()
    for i in tl.static_range(len(PAIRS)):
        sums = zeros(where, BLOCK_D)
        for start in range(0, stop, BLOCK_D):
            a = unit(rows, strides, scales, PAIRS[i][0], where, start, NORMALIZE)
            b = unit(rows, strides, scales, PAIRS[i][1], where, start, NORMALIZE)
            sums += TERM(difference(a, b, eps, where, start), p)
        distance, chain = DISTANCE(tl.sum(sums, 1, keep_dims=True), p, SQUARED)
        distances = distances + (distance,)
        chains = chains + (chain,)
    return distances, chains


@triton.jit
def load_all(rows, strides, where):
    blocks = ()
    for k in tl.static_range(len(rows)):
        blocks = blocks + (load(rows, strides, k, where, 0),)
    return blocks


@triton.jit
def _dot(a, b):
    return tl.sum(a * b, 1, keep_dims=True)


@triton.jit
def _reciprocal_norms(blocks):
    # 1 / |x| of each row to an ulp, and where one is so short or long that products would not do.
    reciprocals = ()
    unusual = False
    for k in tl.static_range(len(blocks)):
        square = _dot(blocks[k], blocks[k])
        usual = (square >= 1e-24) & (square <= 1e24)
        square = tl.where(usual, square, 1.0)
        fast = tl.rsqrt(square)
        exact = tl.fma(0.5 * fast, tl.fma(-square * fast, fast, 1.0), fast)
        reciprocals = reciprocals + (exact,)
        unusual = unusual | (usual == 0)
    return reciprocals, unusual


@triton.jit
def _cosines(blocks, reciprocals, PAIRS: tl.constexpr):
    cosines = ()
    near = False
    for i in tl.static_range(len(PAIRS)):
        factor = reciprocals[PAIRS[i][0]] * reciprocals[PAIRS[i][1]]
        cosine = _dot(blocks[PAIRS[i][0]], blocks[PAIRS[i][1]]) * factor
        cosines = cosines + (cosine,)
        near = near | (2.0 - 2.0 * cosine < NEAR)
    return cosines, near


@triton.jit
def find_all(
    rows, strides, where, stop, p, eps, blocks, TERM: tl.constexpr, DISTANCE: tl.constexpr,
    NORMALIZE: tl.constexpr, SQUARED: tl.constexpr, PAIRS: tl.constexpr, OTHERS: tl.constexpr,
    PRODUCTS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Distances, chains and |u_0|^2 + |u_1|^2; then for gradients the scales, and of PRODUCTS where
    # rows are near, whether any are, 1 / |x| and cosines.
    if PRODUCTS:
        reciprocals, near = _reciprocal_norms(blocks)
        cosines, close = _cosines(blocks, reciprocals, PAIRS)
        _, others_close = _cosines(blocks, reciprocals, OTHERS)
        near = (near | close | others_close) & where[1]
        some = tl.max(near.to(tl.int32)) > 0
        distances = ()
        chains = ()
        for i in tl.static_range(len(PAIRS)):
            distance, chain = DISTANCE(2.0 - 2.0 * cosines[i], p, SQUARED)
            distances = distances + (distance,)
            chains = chains + (chain,)
        overlap = tl.full(near.shape, 2.0, tl.float32)
        if some:
            scales = find_scales(rows, strides, where, stop, True, BLOCK_D)
            exact, exact_chains = _distances(
                rows, strides, scales, where, stop, p, eps,
                TERM, DISTANCE, NORMALIZE, SQUARED, PAIRS, BLOCK_D,
            )  # fmt: skip
            distances = _chosen(near, exact, distances)
            chains = _chosen(near, exact_chains, chains)
            overlap = tl.where(near, _overlap(scales), overlap)
        return distances, chains, overlap, (), (near, some, reciprocals, cosines)
    else:
        scales = find_scales(rows, strides, where, stop, NORMALIZE, BLOCK_D)
        distances, chains = _distances(
            rows, strides, scales, where, stop, p, eps,
            TERM, DISTANCE, NORMALIZE, SQUARED, PAIRS, BLOCK_D,
        )  # fmt: skip
        overlap = 2.0
        if NORMALIZE:
            overlap = _overlap(scales)
        return distances, chains, overlap, scales, ()


@triton.jit
def _chosen(condition, yes, no):
    chosen = ()
    for i in tl.static_range(len(yes)):
        chosen = chosen + (tl.where(condition, yes[i], no[i]),)
    return chosen


@triton.jit
def _overlap(scales):
    u_0 = scales[0][2] / scales[0][1]
    u_1 = scales[1][2] / scales[1][1]
    return u_0 * u_0 + u_1 * u_1


@triton.jit
def find_losses(
    distances, overlap, row_terms, gaps, where, VALUE: tl.constexpr, SWAP: tl.constexpr,
    SOFT: tl.constexpr,
):  # fmt: skip
    # The losses, and their derivatives by the pairs' distances.
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
    return VALUE(distances, gaps, alike, weight, shift, overlap, SWAP, SOFT)
