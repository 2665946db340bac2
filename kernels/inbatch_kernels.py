"""The in-batch kernels that walk tiles: distances, weights, near pairs, and the normalisation.

A tile (R, M) holds one number for each of R anchors and M others. Programs are (anchor, split): a
split is `span` columns, so that tiles of few long rows fill a GPU as well. Every sum has a fixed
order and no two programs write to one place. Offsets in a tile fit 32 bits, those of embeddings
may not.
"""

import triton
import triton.language as tl

from .row_losses import SMALLEST_NORM, hinge, inverse

# d^2 = |x|^2 + |y|^2 - 2 x.y has lost two digits where it is below this share of |x|^2 + |y|^2.
NEAR = tl.constexpr(1e-2)
# Rows that near_kernel loads together: 8 cost 60 registers more.
AT_ONCE = tl.constexpr(
    4
)  # rows of others that near_kernel loads together: 8 cost 60 registers more


@triton.jit
def matching(
    x_labels, y_labels, anchor, column, inside, rows, columns, words, SHARED: tl.constexpr
):
    # Labels are (words, N) and (words, M): equal, or multi-hot with a bit in common.
    if SHARED:
        match = column < 0
        for word in range(words):
            own = tl.load(x_labels + word * rows + anchor)
            other = tl.load(y_labels + word * columns + column, inside, other=0)
            match = match | ((own & other) != 0)
        return match
    else:
        return tl.load(x_labels + anchor) == tl.load(y_labels + column, inside, other=0)


@triton.jit
def chain_of(distance, SQUARED: tl.constexpr):
    # dd/dx = chain (x - y), for the distance or its square.
    if SQUARED:
        return tl.full(distance.shape, 2.0, tl.float32)
    else:
        return inverse(distance)


@triton.jit
def _squared_distance(
    x, x_rest, y, y_rest, width, column, wanted, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):
    # |x - y|^2 from differences; x points to one row, y to all.
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    rows = column.to(tl.int64)[:, None] * width
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)[None, :]
        mask = wanted[:, None] & (k < width)
        t = tl.load(x + k, k < width, other=0) - tl.load(y + rows + k, mask, other=0)
        if x_rest is not None:
            rest = tl.load(x_rest + k, k < width, other=0)
            t += rest - tl.load(y_rest + rows + k, mask, other=0)
        total += tl.where(mask, t * t, 0.0)
    return tl.sum(total, 1)


@triton.jit(do_not_specialize=["first", "rows"])
def distance_kernel(
    tile, near, counts, parts, x, x_rest, x_square, y, y_rest, y_square, width,
    x_labels, y_labels, first, rows, columns, words, span, pos_margin, neg_margin,
    OWN: tl.constexpr, SHARED: tl.constexpr, SQUARED: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    # Dot products become distances; near pairs are marked; the positives of a split are counted
    # (counts), or the contrastive terms added up (parts).
    row, split = tl.program_id(0), tl.program_id(1)
    anchor = first + row
    x += anchor.to(tl.int64) * width
    if x_rest is not None:
        x_rest += anchor.to(tl.int64) * width
    own_square = tl.load(x_square + anchor)
    pos_sum = tl.zeros([BLOCK], tl.float32)
    neg_sum = tl.zeros([BLOCK], tl.float32)
    positives = tl.zeros([BLOCK], tl.int32)
    negatives = tl.zeros([BLOCK], tl.int32)
    pos_active = tl.zeros([BLOCK], tl.int32)
    neg_active = tl.zeros([BLOCK], tl.int32)
    for start in range(split * span, tl.minimum(split * span + span, columns), BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        at = row * columns + column
        squares = own_square + tl.load(y_square + column, inside, other=0)
        distance = squares - 2.0 * tl.load(tile + at, inside, other=0)
        valid = inside
        if OWN:
            valid = inside & (column != anchor)
        close = valid & (distance < squares * NEAR)
        if tl.max(close.to(tl.int32)) > 0:
            again = _squared_distance(x, x_rest, y, y_rest, width, column, close, BLOCK, WIDTH)
            distance = tl.where(close, again, distance)
        distance = tl.where(distance < 0, 0.0, distance)
        if not SQUARED:
            distance = tl.sqrt_rn(distance)
        tl.store(tile + at, distance, inside)
        if near is not None:
            tl.store(near + at, close.to(tl.uint8), inside)
        if counts is not None or parts is not None:
            match = matching(
                x_labels, y_labels, anchor, column, inside, rows, columns, words, SHARED
            )
            positives += (valid & match).to(tl.int32)
        if parts is not None:
            # Selected, not multiplied: 0 * NaN is NaN.
            h = tl.where(match, distance - pos_margin, neg_margin - distance)
            pos_sum += tl.where(valid & match, hinge(h), 0.0)
            neg_sum += tl.where(valid & ~match, hinge(h), 0.0)
            negatives += (valid & ~match).to(tl.int32)
            pos_active += (valid & match & (h > 0)).to(tl.int32)
            neg_active += (valid & ~match & (h > 0)).to(tl.int32)
    part = row * tl.num_programs(1) + split
    if counts is not None:
        tl.store(counts + part, tl.sum(positives))
    if parts is not None:
        tl.store(parts + part * 6, tl.sum(pos_sum.to(tl.float64)))
        tl.store(parts + part * 6 + 1, tl.sum(pos_active).to(tl.float64))
        tl.store(parts + part * 6 + 2, tl.sum(positives).to(tl.float64))
        tl.store(parts + part * 6 + 3, tl.sum(neg_sum.to(tl.float64)))
        tl.store(parts + part * 6 + 4, tl.sum(neg_active).to(tl.float64))
        tl.store(parts + part * 6 + 5, tl.sum(negatives).to(tl.float64))


@triton.jit(do_not_specialize=["first", "rows"])
def weigh_kernel(
    tile, x_labels, y_labels, coefficient, first, rows, columns, words, span,
    pos_margin, neg_margin, OWN: tl.constexpr, SHARED: tl.constexpr, SQUARED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # The contrastive loss: distances become V.
    row, split = tl.program_id(0), tl.program_id(1)
    anchor = first + row
    pos_weight = tl.load(coefficient)
    neg_weight = tl.load(coefficient + 1)
    for start in range(split * span, tl.minimum(split * span + span, columns), BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        at = row * columns + column
        distance = tl.load(tile + at, inside, other=0)
        match = matching(x_labels, y_labels, anchor, column, inside, rows, columns, words, SHARED)
        h = tl.where(match, distance - pos_margin, neg_margin - distance)
        weight = tl.where(h > 0, tl.where(match, pos_weight, -neg_weight), 0.0)
        if OWN:
            weight = tl.where(column == anchor, 0.0, weight)
        tl.store(tile + at, weight * chain_of(distance, SQUARED), inside)


@triton.jit(do_not_specialize=["owners", "others"])
def near_kernel(
    tile, near, own, own_rest, other, other_rest, out, owners, others, width, own_stride,
    other_stride, span,
    ADD: tl.constexpr, OWNERS: tl.constexpr, OTHERS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    # sum V (own - other) over the near pairs of a block of owners and a split of others. Owners
    # are the tile's rows or its columns. Blocks without near pairs are left out, and the loads of
    # several others are in flight at once.
    split = tl.program_id(2)
    owner = tl.program_id(0) * OWNERS + tl.arange(0, OWNERS)
    k = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = owner < owners
    lanes = k < width
    mask = inside[:, None] & lanes[None, :]
    flat = owner.to(tl.int64)[:, None] * width + k[None, :]
    mine = tl.load(own + flat, mask, other=0)
    if own_rest is not None:
        rest = tl.load(own_rest + flat, mask, other=0)
    total = tl.zeros([OWNERS, WIDTH], tl.float32)
    for start in range(split * span, tl.minimum(split * span + span, others), OTHERS):
        block = start + tl.arange(0, OTHERS)
        at = block[:, None] * other_stride + owner[None, :] * own_stride
        marks = tl.load(near + at, (block < others)[:, None] & inside[None, :], other=0)
        if tl.max(marks.to(tl.int32)) > 0:
            for first in range(start, start + OTHERS, AT_ONCE):
                for i in tl.static_range(AT_ONCE):
                    here = tl.full((1,), first + i, tl.int32) < others
                    one = (first + i) * other_stride + owner * own_stride
                    close = tl.load(near + one, inside & here, other=0) != 0
                    v = tl.load(tile + one, inside & here & close, other=0)
                    row = tl.cast(first + i, tl.int64) * width + k
                    t = mine - tl.load(other + row, lanes & here, other=0)[None, :]
                    if own_rest is not None:
                        t += rest - tl.load(other_rest + row, lanes & here, other=0)[None, :]
                    total += v[:, None] * t
    out += split.to(tl.int64) * owners * width
    if ADD:
        total += tl.load(out + flat, mask, other=0)
    tl.store(out + flat, total, mask)


@triton.jit
def units_kernel(x, units, rest, reciprocal, square, width, WIDTH: tl.constexpr):
    # In float64: rest is what units lose in rounding.
    row = tl.program_id(0)
    flat = row.to(tl.int64) * width
    total = tl.zeros([WIDTH], tl.float64)
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)
        value = tl.load(x + flat + k, k < width, other=0).to(tl.float64)
        total += value * value
    norm = tl.sqrt(tl.sum(total))
    short = norm < SMALLEST_NORM
    scale = 1.0 / tl.where(short, SMALLEST_NORM, norm)
    tl.store(reciprocal + row, tl.where(short, 0.0, scale).to(tl.float32))
    total = tl.zeros([WIDTH], tl.float64)
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)
        exact = tl.load(x + flat + k, k < width, other=0).to(tl.float64) * scale
        unit = exact.to(tl.float32)
        tl.store(units + flat + k, unit, k < width)
        tl.store(rest + flat + k, (exact - unit.to(tl.float64)).to(tl.float32), k < width)
        total += unit.to(tl.float64) * unit.to(tl.float64)
    tl.store(square + row, tl.sum(total).to(tl.float32))


@triton.jit
def project_kernel(grad, units, reciprocal, coefficient, factor, width, WIDTH: tl.constexpr):
    row = tl.program_id(0)
    flat = row.to(tl.int64) * width
    scale = tl.load(reciprocal + row).to(tl.float64) * factor
    if coefficient is not None:
        scale *= tl.load(coefficient)
    total = tl.zeros([WIDTH], tl.float64)
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)
        g = tl.load(grad + flat + k, k < width, other=0).to(tl.float64)
        total += g * tl.load(units + flat + k, k < width, other=0)
    radial = tl.sum(total)
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)
        g = tl.load(grad + flat + k, k < width, other=0)
        unit = tl.load(units + flat + k, k < width, other=0)
        tl.store(grad + flat + k, (scale * (g - radial * unit)).to(tl.float32), k < width)
