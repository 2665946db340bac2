"""The pointwise kernels: forward (partial sums per task, which finish.py adds up) and backward.

A contiguous (N, T) matrix is walked as super-rows of `width` = period * T elements, `period` rows
side by side, because blocks of a power of two fit T = 5 or 40 badly: a super-row nearly fills WIDTH
lanes, its address keeps the alignment of 16-byte loads, and each lane's task is fixed. Wide
super-rows are split into `tiles` of WIDTH lanes. The rows left over at the end, fewer than
`period`, are the tail.

Sums repeat bit for bit: the split of the work depends on the shapes and the device's size, and
every sum has a fixed order.
"""

import triton
import triton.language as tl

# How an (N, T) operand lies: absent, contiguous like the logits, one value per task, any strides.
ABSENT = tl.constexpr(0)
FLAT = tl.constexpr(1)
TASK = tl.constexpr(2)
STRIDED = tl.constexpr(3)

# Steps summed in float32 before their sum is added to the total: a single running sum over
# thousands of elements would lose digits that the reference's pairwise sum keeps.
CHUNK = tl.constexpr(32)


@triton.jit
def _lanes(
    tile, tasks, period, width, ROWS: tl.constexpr, WIDTH: tl.constexpr, VECTOR: tl.constexpr
):
    # Column in the super-row and task (1, WIDTH); index of the super-row (ROWS, 1); offset in a
    # block of super-rows and row of the matrix (ROWS, WIDTH).
    column = tile * WIDTH + tl.arange(0, WIDTH)[None, :]  # 32 bits: 64-bit division is a call
    super_row = tl.arange(0, ROWS)[:, None]
    row = super_row * period + column // tasks
    # A thread's 16 bytes of logits set how many elements it takes of every operand: int8 targets
    # could be loaded wider still, but then change hands through shared memory.
    flat = tl.max_contiguous(super_row * width + column, [1, VECTOR])
    return column, column % tasks, super_row, flat, row


@triton.jit
def _operand(pointer, strides, where, LAYOUT: tl.constexpr):
    base, flat, first_row, row, task, inside, lanes = where
    if LAYOUT == FLAT:
        return tl.load(pointer + base + flat, inside, other=0)
    elif LAYOUT == TASK:
        # (1, WIDTH): read once for all super-rows of the block.
        return tl.load(pointer + task * strides[1], lanes, other=0)
    else:
        offset = (first_row + row) * strides[0] + task.to(tl.int64) * strides[1]
        return tl.load(pointer + offset, inside, other=0)


@triton.jit
def _load(
    tensors, strides, where, smoothing, CLASSIFICATION: tl.constexpr, MASK: tl.constexpr,
    WEIGHT: tl.constexpr, POS_WEIGHT: tl.constexpr, SAMPLE_WEIGHT: tl.constexpr,
):  # fmt: skip
    # x, y (smoothed), p, the product of the weights, weight alone, and where a label is present.
    logits, target, mask, weight, pos_weight, sample_weight = tensors
    inside = where[5]
    x = tl.load(logits + where[0] + where[1], inside, other=0).to(tl.float32)
    y = tl.load(target + where[0] + where[1], inside, other=0)
    # First: the interpreter compares the bits of bfloat16, and a bool is -1 in its one bit.
    y = y.to(tl.float32)
    if CLASSIFICATION:
        present = inside & (y >= 0)  # false for NaN too
    else:
        present = inside & (y == y)
    if MASK != ABSENT:
        present = present & (_operand(mask, strides[0], where, MASK) != 0)
    # Selected, not multiplied: 0 * NaN is NaN.
    x = tl.where(present, x, 0.0)
    y = tl.where(present, y, 0.0) * smoothing[0] + smoothing[1]
    p = 1.0
    if POS_WEIGHT != ABSENT:
        p = _operand(pos_weight, strides[2], where, POS_WEIGHT)
    factor = 1.0
    own_weight = 1.0
    if WEIGHT != ABSENT:
        own_weight = _operand(weight, strides[1], where, WEIGHT)
        factor = own_weight
    if SAMPLE_WEIGHT != ABSENT:
        factor *= _operand(sample_weight, strides[3], where, SAMPLE_WEIGHT)
    return x, y, p, factor, own_weight, present


@triton.jit
def _forward_block(
    tensors, strides, where, smoothing, params, elements, task_factor,
    VALUE: tl.constexpr, POWER: tl.constexpr, CLASSIFICATION: tl.constexpr, WEIGHTED: tl.constexpr,
    MASK: tl.constexpr, WEIGHT: tl.constexpr, POS_WEIGHT: tl.constexpr, SAMPLE_WEIGHT: tl.constexpr,
):  # fmt: skip
    # Sums over the block's super-rows, one per lane: loss, labelled count, labelled weight.
    x, y, p, factor, own_weight, present = _load(
        tensors, strides, where, smoothing, CLASSIFICATION, MASK, WEIGHT, POS_WEIGHT, SAMPLE_WEIGHT
    )
    value = VALUE(x, y, p, params[0], params[1], params[2], params[3], POWER) * factor
    value = tl.where(present, value, 0.0)
    if elements is not None:
        out = tl.where(present, value * task_factor, 0.0).to(elements.dtype.element_ty)
        tl.store(elements + where[0] + where[1], out, where[5])
    # Over the super-rows of one thread first: a step adds one number a lane to the running sums.
    count = tl.sum(present.to(tl.int32), 0)
    labelled_weight = tl.zeros_like(count).to(tl.float32)
    if WEIGHTED:
        labelled_weight = tl.sum(tl.where(present, own_weight, 0.0), 0)
    return tl.sum(value, 0), count, labelled_weight


@triton.jit
def _fold(sums, tasks, steps, WIDTH: tl.constexpr):
    # Adds up the lanes of a task: lane j takes lane j + T, then j + 2T, j + 4T ... A gather stays
    # on chip; `period` times as many partial sums would take finish_kernel longer to read than the
    # main pass of a short batch takes.
    lane = tl.arange(0, WIDTH)
    distance = tasks
    for _ in range(steps):
        other = lane + distance
        moved = tl.gather(sums, tl.minimum(other, WIDTH - 1), 0)
        sums += tl.where(other < WIDTH, moved, 0)
        distance *= 2
    return sums


# One compiled kernel serves every shape and stride.
_SHAPES = ["tasks", "period", "units", "full_rows", "tail", "partition", "splits", "tiles"]
_STRIDES = [f"{name}_{axis}" for name in ("mask", "weight", "pos", "sample") for axis in "nt"]


@triton.jit(do_not_specialize=[*_SHAPES, *_STRIDES, "steps"])
def forward_kernel(
    logits, target, mask, weight, pos_weight, sample_weight, task_weight, elements, scratch,
    mask_n, mask_t, weight_n, weight_t, pos_n, pos_t, sample_n, sample_t,
    tasks, period, units, full_rows, tail, partition, splits, tiles, steps, keep, shift, a, b, c, d,
    VALUE: tl.constexpr, POWER: tl.constexpr, CLASSIFICATION: tl.constexpr, WEIGHTED: tl.constexpr,
    MASK: tl.constexpr, WEIGHT: tl.constexpr, POS_WEIGHT: tl.constexpr, SAMPLE_WEIGHT: tl.constexpr,
    ALIGN: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    tile, split = program % tiles, program // tiles
    VECTOR: tl.constexpr = 128 // logits.dtype.element_ty.primitive_bitwidth
    width = units.to(tl.int64) * ALIGN  # so that the compiler sees the alignment
    column, task, super_row, flat, row = _lanes(tile, tasks, period, width, ROWS, WIDTH, VECTOR)
    lanes = column < width
    tensors = (logits, target, mask, weight, pos_weight, sample_weight)
    strides = ((mask_n, mask_t), (weight_n, weight_t), (pos_n, pos_t), (sample_n, sample_t))
    smoothing = (keep, shift)
    params = (a, b, c, d)
    task_factor = 1.0
    if elements is not None and task_weight is not None:
        task_factor = tl.load(task_weight + task, lanes, other=0)

    sums = tl.zeros([WIDTH], tl.float32)
    counts = tl.zeros([WIDTH], tl.int32)
    weights = tl.zeros([WIDTH], tl.float32)
    # Apart, because a bound that is no multiple of ALIGN would break up the wide loads above.
    if (split == splits - 1) & (tail > 0):
        first = full_rows.to(tl.int64)
        inside = column < tail
        where = (first * width, column, first * period, column // tasks, task, inside, inside)
        value, count, labelled_weight = _forward_block(
            tensors, strides, where, smoothing, params, elements, task_factor,
            VALUE, POWER, CLASSIFICATION, WEIGHTED, MASK, WEIGHT, POS_WEIGHT, SAMPLE_WEIGHT,
        )  # fmt: skip
        sums += value
        counts += count
        weights += labelled_weight

    begin = split.to(tl.int64) * partition
    end = tl.minimum(begin + partition, full_rows)
    for chunk in range(begin, end, CHUNK * ROWS):
        chunk_sums = tl.zeros([WIDTH], tl.float32)
        chunk_weights = tl.zeros([WIDTH], tl.float32)
        for first in range(chunk, tl.minimum(chunk + CHUNK * ROWS, end), ROWS):
            inside = (super_row < end - first) & lanes
            where = (first * width, flat, first * period, row, task, inside, lanes)
            value, count, labelled_weight = _forward_block(
                tensors, strides, where, smoothing, params, elements, task_factor,
                VALUE, POWER, CLASSIFICATION, WEIGHTED, MASK, WEIGHT, POS_WEIGHT, SAMPLE_WEIGHT,
            )  # fmt: skip
            chunk_sums += value
            counts += count
            chunk_weights += labelled_weight
        sums += chunk_sums
        weights += chunk_weights
    # scratch: the ticket, then one (rows, T) matrix per kind: a folded split adds one row to each,
    # another one adds `period` rows.
    slots = width
    if tiles == 1:
        slots = tl.minimum(width, tasks).to(tl.int64)
        sums = _fold(sums, tasks, steps, WIDTH)
        counts = _fold(counts, tasks, steps, WIDTH)
        if WEIGHTED:
            weights = _fold(weights, tasks, steps, WIDTH)
    slot = tile.to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    kind = slots * splits
    out = scratch + 1 + split.to(tl.int64) * slots + slot
    tl.store(out, sums.to(tl.int32, bitcast=True), slot < slots)
    tl.store(out + kind, counts, slot < slots)
    if WEIGHTED:
        tl.store(out + 2 * kind, weights.to(tl.int32, bitcast=True), slot < slots)
    if program == 0:
        tl.store(scratch, 0)  # here, because a memset would be a third launch


@triton.jit
def _backward_block(
    tensors, strides, where, smoothing, params, grad_loss, gradient, coefficient, task_coefficient,
    GRAD: tl.constexpr, POWER: tl.constexpr, CLASSIFICATION: tl.constexpr, MASK: tl.constexpr,
    WEIGHT: tl.constexpr, POS_WEIGHT: tl.constexpr, SAMPLE_WEIGHT: tl.constexpr,
    GRAD_LOSS: tl.constexpr,
):  # fmt: skip
    x, y, p, factor, _, present = _load(
        tensors, strides, where, smoothing, CLASSIFICATION, MASK, WEIGHT, POS_WEIGHT, SAMPLE_WEIGHT
    )
    if GRAD_LOSS != ABSENT:
        given = _operand(grad_loss, strides[4], where, GRAD_LOSS)
        coefficient = coefficient * given.to(tl.float32)
    grad = GRAD(x, y, p, params[0], params[1], params[2], params[3], POWER)
    grad = tl.where(present, grad * (factor * (coefficient + task_coefficient)), 0.0)
    tl.store(gradient + where[0] + where[1], grad.to(gradient.dtype.element_ty), where[5])


@triton.jit(do_not_specialize=[*_SHAPES, *_STRIDES, "grad_n", "grad_t"])
def backward_kernel(
    logits, target, mask, weight, pos_weight, sample_weight, task_weight, count, denominator,
    grad_loss, grad_task_loss, gradient,
    mask_n, mask_t, weight_n, weight_t, pos_n, pos_t, sample_n, sample_t, grad_n, grad_t,
    tasks, period, units, full_rows, tail, partition, splits, tiles, keep, shift, a, b, c, d,
    GRAD: tl.constexpr, POWER: tl.constexpr, CLASSIFICATION: tl.constexpr, MASK: tl.constexpr,
    WEIGHT: tl.constexpr, POS_WEIGHT: tl.constexpr, SAMPLE_WEIGHT: tl.constexpr,
    GRAD_LOSS: tl.constexpr, ALIGN: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    tile, split = program % tiles, program // tiles
    VECTOR: tl.constexpr = 128 // logits.dtype.element_ty.primitive_bitwidth
    width = units.to(tl.int64) * ALIGN
    column, task, super_row, flat, row = _lanes(tile, tasks, period, width, ROWS, WIDTH, VECTOR)
    lanes = column < width
    tensors = (logits, target, mask, weight, pos_weight, sample_weight)
    strides = (
        (mask_n, mask_t), (weight_n, weight_t), (pos_n, pos_t), (sample_n, sample_t),
        (grad_n, grad_t),
    )  # fmt: skip
    smoothing = (keep, shift)
    params = (a, b, c, d)

    # d L / d S_t: one coefficient per lane, whatever the reduction. With GRAD_LOSS, for "none", the
    # part that comes from the loss is multiplied by each element's own upstream gradient. The two
    # may cancel: quotients are rounded once, which NVIDIA's fast ones are not.
    coefficient = tl.zeros([1, WIDTH], tl.float32)
    if grad_loss is not None:
        coefficient += 1.0
        if task_weight is not None:
            coefficient *= tl.load(task_weight + task, lanes, other=0)
        if GRAD_LOSS == ABSENT:
            upstream = tl.load(grad_loss).to(tl.float32)
            coefficient *= tl.div_rn(upstream, tl.load(denominator + task, lanes, other=1))
    task_coefficient = tl.zeros([1, WIDTH], tl.float32)
    if grad_task_loss is not None:
        own = tl.maximum(tl.load(count + task, lanes, other=1), 1).to(tl.float32)
        task_coefficient += tl.div_rn(tl.load(grad_task_loss + task, lanes, other=0), own)

    if (split == splits - 1) & (tail > 0):
        first = full_rows.to(tl.int64)
        inside = column < tail
        where = (first * width, column, first * period, column // tasks, task, inside, inside)
        _backward_block(
            tensors, strides, where, smoothing, params, grad_loss, gradient,
            coefficient, task_coefficient,
            GRAD, POWER, CLASSIFICATION, MASK, WEIGHT, POS_WEIGHT, SAMPLE_WEIGHT, GRAD_LOSS,
        )  # fmt: skip

    begin = split.to(tl.int64) * partition
    end = tl.minimum(begin + partition, full_rows)
    for first in range(begin, end, ROWS):
        inside = (super_row < end - first) & lanes
        where = (first * width, flat, first * period, row, task, inside, lanes)
        _backward_block(
            tensors, strides, where, smoothing, params, grad_loss, gradient,
            coefficient, task_coefficient,
            GRAD, POWER, CLASSIFICATION, MASK, WEIGHT, POS_WEIGHT, SAMPLE_WEIGHT, GRAD_LOSS,
        )  # fmt: skip
