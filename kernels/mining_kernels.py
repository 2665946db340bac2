"""Triplets of an anchor: its distances are put in order, positives first, and then compared.

All pairs of a positive and a negative are looked at twice: once by the program that owns the
negative, for the loss and the negative's weight, and once, more cheaply, by the one that owns the
positive, for the positive's. So every sum stays in registers, in fixed order, and all programs of
an anchor share its work evenly, wherever its positives lie.
"""

import triton
import triton.language as tl

from .inbatch_kernels import chain_of, matching
from .math import logistic_sigmoid, logistic_softplus


@triton.jit(do_not_specialize=["first", "rows"])
def partition_kernel(
    tile, counts, ordered, place, positives, x_labels, y_labels, first, rows, columns, words, span,
    OWN: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # ordered: the distances to the positives, then to the negatives; place: their columns.
    row, split, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    anchor = first + row
    seen = 0
    total = 0
    for start in range(0, splits, BLOCK):
        part = start + tl.arange(0, BLOCK)
        count = tl.load(counts + row * splits + part, part < splits, other=0)
        total += tl.sum(count)
        seen += tl.sum(tl.where(part < split, count, 0))
    if split == 0:
        tl.store(positives + row, total)
    for start in range(split * span, tl.minimum(split * span + span, columns), BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        valid = inside
        before = column
        if OWN:
            valid = inside & (column != anchor)
            before -= (column > anchor).to(tl.int32)
        match = matching(x_labels, y_labels, anchor, column, inside, rows, columns, words, SHARED)
        positive = (valid & match).to(tl.int32)
        rank = seen + tl.cumsum(positive, 0)
        to = row * columns + tl.where(positive > 0, rank - 1, total + before - rank)
        at = row * columns + column
        tl.store(ordered + to, tl.load(tile + at, valid, other=0), valid)
        if place is not None:
            tl.store(place + to, column, valid)
            if OWN:
                tl.store(tile + at, tl.zeros([BLOCK], tl.float32), column == anchor)
        seen += tl.sum(positive)


@triton.jit
def _contribution(difference, margin, SEMIHARD: tl.constexpr, SOFT: tl.constexpr):
    # What a triplet adds, by d_an - d_ap: the derivative of its loss by d_ap, its loss, and 1 if it
    # was mined.
    if SOFT:
        weight, _ = logistic_sigmoid(margin - difference)
        value, _ = logistic_softplus(margin - difference)
    else:
        weight = tl.where(difference < margin, 1.0, 0.0)
        value = tl.where(difference < margin, margin - difference, 0.0)
    mined = tl.where(difference <= margin, 1.0, 0.0)
    if SEMIHARD:
        beyond = difference > 0
        mined = tl.where(beyond, mined, 0.0)
        weight = tl.where(beyond, weight, 0.0)
        value = tl.where(beyond, value, 0.0)
        if SOFT:
            weight = tl.where(mined > 0, weight, 0.0)
            value = tl.where(mined > 0, value, 0.0)
    return weight, value, mined


@triton.jit
def _product(weight, distance):
    # In float64; a weight of 0 takes no part, whatever the distance.
    used = tl.where(weight > 0, distance, 0.0)
    return weight.to(tl.float64) * used.to(tl.float64)


@triton.jit
def _only_nan(x):
    return tl.where(x == x, 0.0, x).to(tl.float64)


@triton.jit(do_not_specialize=["pairs"])
def triplet_kernel(
    ordered, place, positives, tile, parts, columns, pairs, margin,
    SEMIHARD: tl.constexpr, SOFT: tl.constexpr, SQUARED: tl.constexpr,
    POSITIVES: tl.constexpr, NEGATIVES: tl.constexpr,
):  # fmt: skip
    # Sums of a block are float32, those over blocks float64. What lies past the end of a list is
    # infinitely far from being mined.
    row, split, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    pos_count = tl.load(positives + row)
    neg_count = pairs - pos_count
    tile += row * columns
    pos_list = ordered + row * columns
    neg_list = pos_list + pos_count
    pos_lane = tl.arange(0, POSITIVES)
    neg_lane = tl.arange(0, NEGATIVES)
    far = float("inf")
    pos_sum = tl.zeros([POSITIVES], tl.float64)
    neg_sum = tl.zeros([NEGATIVES], tl.float64)
    active = tl.zeros([NEGATIVES], tl.float64)
    taken = tl.zeros([NEGATIVES], tl.float64)
    for start in range(split * NEGATIVES, neg_count, splits * NEGATIVES):
        k = start + neg_lane
        neg = tl.load(neg_list + k, k < neg_count, other=far)
        weights = tl.zeros([POSITIVES, NEGATIVES], tl.float32)
        values = tl.zeros([POSITIVES, NEGATIVES], tl.float32)
        mined = tl.zeros([POSITIVES, NEGATIVES], tl.float32)
        for first in range(0, pos_count, POSITIVES):
            j = first + pos_lane
            pos = tl.load(pos_list + j, j < pos_count, other=-far)
            weight, value, one = _contribution(neg[None, :] - pos[:, None], margin, SEMIHARD, SOFT)
            weights += weight
            values += value
            mined += one
        weight = tl.sum(weights, 0)
        active += weight.to(tl.float64)
        taken += tl.sum(mined, 0).to(tl.float64)
        # A hinge's losses add up to sum W d + margin * active, with W exact: nothing to sum inside.
        neg_sum += _only_nan(neg)
        neg_sum += tl.sum(values, 0).to(tl.float64) if SOFT else -_product(weight, neg)
        if place is not None:
            column = tl.load(place + row * columns + pos_count + k, k < neg_count, other=0)
            tl.store(tile + column, -weight * chain_of(neg, SQUARED), k < neg_count)
    for start in range(split * POSITIVES, pos_count, splits * POSITIVES):
        j = start + pos_lane
        pos = tl.load(pos_list + j, j < pos_count, other=-far)
        pos_sum += _only_nan(pos)
        if place is not None or not SOFT:
            weights = tl.zeros([POSITIVES, NEGATIVES], tl.float32)
            for first in range(0, neg_count, NEGATIVES):
                k = first + neg_lane
                neg = tl.load(neg_list + k, k < neg_count, other=far)
                weight, _, _ = _contribution(neg[None, :] - pos[:, None], margin, SEMIHARD, SOFT)
                weights += weight
            weight = tl.sum(weights, 1)
            if not SOFT:
                pos_sum += _product(weight, pos)
            if place is not None:
                column = tl.load(place + row * columns + j, j < pos_count, other=0)
                tl.store(tile + column, weight * chain_of(pos, SQUARED), j < pos_count)
    total = tl.sum(neg_sum) + tl.sum(pos_sum)
    triplets = tl.sum(taken)
    if not SEMIHARD:
        everything = pos_count.to(tl.float64) * neg_count.to(tl.float64)
        triplets = tl.where(split == 0, everything, 0.0)
    violations = triplets
    if not SOFT:
        violations = tl.sum(active)
        total += violations * margin
    parts += (row * splits + split) * 3
    tl.store(parts, total)
    tl.store(parts + 1, violations)
    tl.store(parts + 2, triplets)


@triton.jit(do_not_specialize=["first", "rows"])
def hard_kernel(
    tile, near, stats, x_labels, y_labels, first, rows, columns, words, margin,
    OWN: tl.constexpr, SHARED: tl.constexpr, SQUARED: tl.constexpr, SOFT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # The farthest positive and the nearest negative; lanes keep the first of equals.
    row = tl.program_id(0)
    anchor = first + row
    tile += row * columns
    pos = tl.full([BLOCK], -1.0, tl.float32)
    neg = tl.full([BLOCK], float("inf"), tl.float32)
    pos_at = tl.zeros([BLOCK], tl.int32) + columns
    neg_at = tl.zeros([BLOCK], tl.int32) + columns
    poison = tl.zeros([BLOCK], tl.float64)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        valid = inside
        if OWN:
            valid = inside & (column != anchor)
        distance = tl.load(tile + column, valid, other=0)
        match = matching(x_labels, y_labels, anchor, column, inside, rows, columns, words, SHARED)
        poison += _only_nan(distance)
        farther = valid & match & (distance > pos)
        nearer = valid & ~match & ((distance < neg) | (neg_at == columns))
        pos, pos_at = tl.where(farther, distance, pos), tl.where(farther, column, pos_at)
        neg, neg_at = tl.where(nearer, distance, neg), tl.where(nearer, column, neg_at)
    farthest = tl.max(pos)
    nearest = tl.min(neg)
    pos_first = tl.min(tl.where(pos == farthest, pos_at, columns))
    neg_first = tl.min(tl.where(neg == nearest, neg_at, columns))
    found = (pos_first < columns) & (neg_first < columns)
    weight, value, _ = _contribution(nearest - farthest, margin, False, SOFT)
    count = tl.where(found, 1.0, 0.0)
    active = count if SOFT else tl.where(found, weight, 0.0)
    stats += anchor.to(tl.int64) * 3
    tl.store(stats, tl.where(found, value, 0.0).to(tl.float64) + tl.sum(poison))
    tl.store(stats + 1, active.to(tl.float64))
    tl.store(stats + 2, count.to(tl.float64))
    if near is not None:
        near += row * columns
        taken = found & (weight > 0)
        tl.store(tile + pos_first, weight * chain_of(farthest, SQUARED), taken)
        tl.store(tile + neg_first, -weight * chain_of(nearest, SQUARED), taken)
        tl.store(near + pos_first, taken.to(tl.uint8), taken)
        tl.store(near + neg_first, taken.to(tl.uint8), taken)
