"""The forward kernel: partial sums, which finish.py adds up, and the elements that are asked for.

Sums repeat bit for bit: the split of the work depends on the shapes alone, and every sum has a
fixed order.
"""
# ruff: noqa: SIM102 -- Triton decides about a constant before it compiles what the other says.

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from .pointwise_operands import (
    POS_WEIGHT,
    SHAPES,
    STRIDES,
    WEIGHT,
    decode,
    evaluate,
    factor_of,
    read_batch,
    read_columns,
    read_rest,
    walk,
)

# Super-rows of a thread summed in float32 before their sum is added to the total: a single running
# sum over thousands of elements would lose digits that the reference's pairwise sum keeps.
RUN = tl.constexpr(64)


@triton.jit
def _value(
    step, inside, smoothing, params, task_factor, elements, at, VALUE: tl.constexpr,
    POWERS: tl.constexpr, CLASSIFICATION: tl.constexpr, LAYOUTS: tl.constexpr, SIDED: tl.constexpr,
):  # fmt: skip
    # The losses of one step, 0 where no label is present; where one is; and the labels.
    x, y, present = decode(step, inside, smoothing, CLASSIFICATION, LAYOUTS, SIDED)
    value = evaluate(x, y, step[2][POS_WEIGHT], params, VALUE, POWERS, SIDED)
    # Selected, not multiplied: 0 * NaN is NaN.
    value = tl.where(present, value * factor_of(step[2], LAYOUTS), 0.0)
    if elements is not None:
        out = tl.where(present, value * task_factor, 0.0).to(elements.dtype.element_ty)
        if inside is None:
            tl.store(elements + at, out)
        else:
            tl.store(elements + at, out, inside)
    return value, present, y


@triton.jit
def _sums_of_rest(
    begin, end, tensors, strides, columns, walked, smoothing, params, task_factor, elements,
    sums, counts, weights, most, VALUE: tl.constexpr, POWERS: tl.constexpr,
    CLASSIFICATION: tl.constexpr, LAYOUTS: tl.constexpr, SIDED: tl.constexpr, ALIGN: tl.constexpr,
    WEIGHTED: tl.constexpr,
):  # fmt: skip
    # Adds the steps from `begin` on, one by one.
    HEIGHT: tl.constexpr = sums.shape[0]
    for first in range(begin, end, HEIGHT):
        step, inside, at = read_rest(
            first, end, tensors, strides, columns, walked, LAYOUTS, ALIGN
        )  # fmt: skip
        value, present, y = _value(
            step, inside, smoothing, params, task_factor, elements, at,
            VALUE, POWERS, CLASSIFICATION, LAYOUTS, SIDED,
        )  # fmt: skip
        sums += value
        counts += present.to(tl.int32)
        if WEIGHTED:
            weights += tl.where(present, step[2][WEIGHT], 0.0)
        if SIDED:
            most = tl.maximum(most, y)
    return sums, counts, weights, most


@triton.jit
def _fold(sums, tasks, steps, LANES: tl.constexpr):
    # Adds up the lanes of a task: lane j takes lane j + T, then j + 2T, j + 4T ...
    lane = tl.arange(0, LANES)
    distance = tasks
    for _ in range(steps):
        other = lane + distance
        moved = tl.gather(sums, tl.minimum(other, LANES - 1), 0)
        sums += tl.where(other < LANES, moved, 0)
        distance *= 2
    return sums


@triton.jit(do_not_specialize=[*SHAPES, *STRIDES, "parts", "folds"])
def forward_kernel(
    logits, target, mask, weight, pos_weight, sample_weight, task_weight, elements, partials,
    partial_weights,
    tasks, period, units, ends, rows, tiles, split_rows,
    mask_n, mask_t, weight_n, weight_t, pos_n, pos_t, sample_n, sample_t, parts, folds,
    keep, shift, a, b, c, d,
    VALUE: tl.constexpr, ON_SIDE: tl.constexpr, POWERS: tl.constexpr, CLASSIFICATION: tl.constexpr,
    LAYOUTS: tl.constexpr, ALIGN: tl.constexpr, END: tl.constexpr, HEIGHT: tl.constexpr,
    LANES: tl.constexpr, BATCH: tl.constexpr, WEIGHTED: tl.constexpr, FOLDED: tl.constexpr,
    OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
    program = tl.program_id(0)
    begin, batches, end, width, total, slot, lanes = walk(
        program, tasks, period, units, ends, rows, tiles, split_rows,
        ALIGN, END, HEIGHT, LANES, BATCH,
    )  # fmt: skip
    height = tl.arange(0, HEIGHT)[:, None]
    task = slot % tasks
    tensors = (logits, target, (mask, weight, pos_weight, sample_weight))
    strides = ((mask_n, mask_t), (weight_n, weight_t), (pos_n, pos_t), (sample_n, sample_t))
    columns = read_columns(tensors[2], strides, task, LAYOUTS)
    smoothing = (keep, shift)
    params = (a, b, c, d)
    task_factor = 1.0
    if elements is not None and task_weight is not None:
        task_factor = tl.load(task_weight + task)

    SIDED: tl.constexpr = ON_SIDE is not None
    FUNCTION: tl.constexpr = ON_SIDE if SIDED else VALUE
    walked = (width, total, slot, lanes, height, period, tasks)
    sums = tl.zeros([HEIGHT, LANES], tl.float32)
    weights = tl.zeros([HEIGHT, LANES], tl.float32)
    counts = tl.zeros([HEIGHT, LANES], tl.int32)
    most = tl.zeros([HEIGHT, LANES], tl.int32)  # the largest label
    for run in range(begin, batches, HEIGHT * RUN):
        run_sums = tl.zeros([HEIGHT, LANES], tl.float32)
        run_weights = tl.zeros([HEIGHT, LANES], tl.float32)
        for first in range(run, tl.minimum(run + HEIGHT * RUN, batches), HEIGHT * BATCH):
            steps = read_batch(
                first, tensors, strides, columns, walked, LAYOUTS, ALIGN, BATCH
            )  # fmt: skip
            for i in tl.static_range(BATCH):
                value, present, y = _value(
                    steps[i][0], None, smoothing, params, task_factor, elements, steps[i][1],
                    FUNCTION, POWERS, CLASSIFICATION, LAYOUTS, SIDED,
                )  # fmt: skip
                run_sums += value
                counts += present.to(tl.int32)
                if WEIGHTED:
                    run_weights += tl.where(present, steps[i][0][2][WEIGHT], 0.0)
                if SIDED:
                    most = tl.maximum(most, y)
        sums += run_sums
        if WEIGHTED:
            weights += run_weights
    sums, counts, weights, most = _sums_of_rest(
        batches, end, tensors, strides, columns, walked, smoothing, params, task_factor, elements,
        sums, counts, weights, most,
        FUNCTION, POWERS, CLASSIFICATION, LAYOUTS, SIDED, ALIGN, WEIGHTED,
    )  # fmt: skip
    if SIDED:
        # No class label is larger than 1. Where one is, all are computed the general way again.
        if tl.max(most) > 1:
            sums, _, _, _ = _sums_of_rest(
                begin, end, tensors, strides, columns, walked, smoothing, params, task_factor,
                elements, tl.zeros_like(sums), counts, weights, most,
                VALUE, POWERS, CLASSIFICATION, LAYOUTS, False, ALIGN, False,
            )  # fmt: skip

    # Partial sums lie side by side for each column, which is a task where few are folded, else a
    # slot.
    tile, split = program % tiles, program // tiles
    column = tl.arange(0, LANES)
    total_sums = tl.sum(tl.where(lanes, sums, 0.0).to(tl.float64), 0)
    total_counts = tl.sum(tl.where(lanes, counts, 0), 0)
    total_weights = total_sums
    if WEIGHTED:
        total_weights = tl.sum(tl.where(lanes, weights, 0.0).to(tl.float64), 0)
    if FOLDED:
        total_sums = _fold(total_sums, tasks, folds, LANES)
        total_counts = _fold(total_counts, tasks, folds, LANES)
        if WEIGHTED:
            total_weights = _fold(total_weights, tasks, folds, LANES)
        shifted = (tile * LANES + column) % tasks
        at = shifted.to(tl.int64) * parts + program
        inside = column < tasks
    else:
        at = (tile * LANES + column).to(tl.int64) * parts + split
        inside = tile * LANES + column < width
    low = total_sums.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    tl.store(partials + at, (total_counts.to(tl.int64) << 32) | low, inside)
    if WEIGHTED:
        tl.store(partial_weights + at, total_weights.to(tl.float32), inside)
