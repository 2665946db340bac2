"""What the pointwise kernels read: how a program walks an (N, T) matrix, and its operands.

A contiguous matrix is walked as csrc/cuda/layout.cuh has it: super-rows of `width` = period * T
slots, `period` rows side by side, because a warp fits T = 5 or 40 badly. A program takes a tile of
LANES slots, 16 bytes of logits for each of 32 threads, and a split of the super-rows, HEIGHT of
them in a step: so each lane's task is fixed. BATCH steps are loaded before any is computed on; what
reaches beyond the data, or is left over, comes step by step.
"""
# ruff: noqa: RUF005 -- Triton can't unpack into a tuple.

import triton
import triton.language as tl

# How an (N, T) operand lies: absent; contiguous like the logits; one value for each task; one for
# each row, where a thread's elements are of one row or not; any strides.
ABSENT = tl.constexpr(0)
FLAT = tl.constexpr(1)
TASK = tl.constexpr(2)
ROW = tl.constexpr(3)
ROWS = tl.constexpr(4)
STRIDED = tl.constexpr(5)
# The operands, in their order.
MASK = tl.constexpr(0)
WEIGHT = tl.constexpr(1)
POS_WEIGHT = tl.constexpr(2)
SAMPLE_WEIGHT = tl.constexpr(3)
GRAD_LOSS = tl.constexpr(4)


@triton.jit
def walk(
    program, tasks, period, units, ends, rows, tiles, split_rows, ALIGN: tl.constexpr,
    END: tl.constexpr, HEIGHT: tl.constexpr, LANES: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    # The walk: the split's first super-row, the first that no batch takes and the last, the width
    # and the elements in all, seen to be multiples of what they are; and the lanes. Offsets in a
    # batch (HEIGHT, LANES) take 32 bits: the few super-rows that are too wide come one by one.
    tile, split = program % tiles, program // tiles
    width = units.to(tl.int64) * ALIGN
    total = ends.to(tl.int64) * END
    begin = split * split_rows
    end = tl.minimum(begin + split_rows, rows)
    whole = tl.minimum(total // width, end).to(tl.int32) - begin
    whole = tl.where(width < 2**31 // (HEIGHT * BATCH), tl.maximum(whole, 0), 0)
    batches = begin + whole // (HEIGHT * BATCH) * (HEIGHT * BATCH)
    # Lanes beyond the width double others, so that no load need be masked.
    first = tile.to(tl.int64) * LANES
    lane = tl.arange(0, LANES)[None, :]
    inside = first + lane < width
    lane = tl.where(inside, lane, lane % ALIGN)
    slot = tl.max_contiguous(tl.multiple_of((first + lane).to(tl.int32), [1, ALIGN]), [1, ALIGN])
    return begin, batches, end, width, total, slot, inside


@triton.jit
def _operand(pointer, strides, column, where, LAYOUT: tl.constexpr, ALIGN: tl.constexpr):
    # Of one step; what is the same in every row has been read before.
    offset, flat, first, height, period, slot, tasks, inside = where
    if LAYOUT == FLAT:
        if inside is None:
            return tl.load(pointer + offset + flat)
        else:
            return tl.load(pointer + offset + flat, inside, other=0)
    elif LAYOUT == ROW:
        # One value for the ALIGN elements of a thread.
        HEIGHT: tl.constexpr = height.shape[0]
        LANES: tl.constexpr = slot.shape[1]
        GROUPS: tl.constexpr = LANES // ALIGN
        group = tl.min(tl.reshape(slot, [GROUPS, ALIGN]), 1)[None, :]
        row = (first + height).to(tl.int64) * period + group // tasks
        if inside is None:
            value = tl.load(pointer + row * strides[0])
        else:
            here = tl.max(tl.reshape(inside.to(tl.int32), [HEIGHT, GROUPS, ALIGN]), 2) > 0
            value = tl.load(pointer + row * strides[0], here, other=0)
        value = tl.broadcast_to(value[:, :, None], [HEIGHT, GROUPS, ALIGN])
        return tl.reshape(value, [HEIGHT, LANES])
    elif LAYOUT < FLAT or LAYOUT == TASK:
        return column
    else:
        row = (first + height).to(tl.int64) * period + slot // tasks
        at = pointer + row * strides[0]
        if LAYOUT == STRIDED:
            at += (slot % tasks).to(tl.int64) * strides[1]
        if inside is None:
            return tl.load(at)
        else:
            return tl.load(at, inside, other=0)


@triton.jit
def read_columns(operands, strides, task, LAYOUTS: tl.constexpr):
    # What is the same in every row, (1, LANES), or nothing.
    columns = ()
    for i in tl.static_range(len(LAYOUTS)):
        if LAYOUTS[i] == TASK:
            columns = columns + (tl.load(operands[i] + task * strides[i][1]),)
        else:
            columns = columns + (1.0,)
    return columns


@triton.jit
def read_step(tensors, strides, columns, where, LAYOUTS: tl.constexpr, ALIGN: tl.constexpr):
    # One step's logits, targets and operands, as they are stored.
    logits, target, operands = tensors
    x = _operand(logits, (0, 0), 0, where, FLAT, ALIGN)
    y = _operand(target, (0, 0), 0, where, FLAT, ALIGN)
    loaded = ()
    for i in tl.static_range(len(LAYOUTS)):
        value = _operand(operands[i], strides[i], columns[i], where, LAYOUTS[i], ALIGN)
        loaded = loaded + (value,)
    return x, y, loaded


@triton.jit
def _number(y):
    # As float32; bytes by way of the float 3 * 2^22 + y, because conversions are slower.
    if y.dtype.is_int() and y.dtype.primitive_bitwidth <= 8:
        return (_integer(y) + 0x4B400000).to(tl.float32, bitcast=True) - 12582912.0
    else:
        return y.to(tl.float32)


@triton.jit
def _integer(y):
    # A bool is -1 in its one bit.
    return (y != 0).to(tl.int32) if y.dtype.is_bool() else y.to(tl.int32)


@triton.jit
def decode(
    step, inside, smoothing, CLASSIFICATION: tl.constexpr, LAYOUTS: tl.constexpr,
    SIDED: tl.constexpr,
):  # fmt: skip
    # x, y (smoothed, or where labels are on their own side the integer), and where a label is
    # present.
    x, y, loaded = step
    # First: the interpreter compares the bits of bfloat16.
    x = x.to(tl.float32)
    y = _integer(y) if SIDED else _number(y)
    if CLASSIFICATION:
        present = y >= 0  # false for NaN too
    else:
        present = y == y
    if LAYOUTS[MASK] != ABSENT:
        present = present & (loaded[MASK] != 0)
    if inside is not None:
        present = present & inside
    return x, y if SIDED else y * smoothing[0] + smoothing[1], present


@triton.jit
def factor_of(loaded, LAYOUTS: tl.constexpr):
    factor = loaded[WEIGHT]
    if LAYOUTS[SAMPLE_WEIGHT] != ABSENT:
        factor = factor * loaded[SAMPLE_WEIGHT]
    return factor


@triton.jit
def read_batch(
    first, tensors, strides, columns, walked, LAYOUTS: tl.constexpr, ALIGN: tl.constexpr,
    BATCH: tl.constexpr,
):  # fmt: skip
    # The steps from super-row `first` on, all there; and the offsets of each.
    width, _, slot, _, height, period, tasks = walked
    HEIGHT: tl.constexpr = height.shape[0]
    offset, flat = first * width, height * width.to(tl.int32) + slot
    steps = ()
    for i in tl.static_range(BATCH):
        at = flat + i * HEIGHT * width.to(tl.int32)
        where = (offset, at, first + i * HEIGHT, height, period, slot, tasks, None)
        step = read_step(tensors, strides, columns, where, LAYOUTS, ALIGN)
        steps = steps + ((step, offset + at),)
    return steps


@triton.jit
def read_rest(
    first, end, tensors, strides, columns, walked, LAYOUTS: tl.constexpr, ALIGN: tl.constexpr
):
    # A step that may reach beyond the data: what is inside, and the offsets.
    width, total, slot, lanes, height, period, tasks = walked
    offset, flat = first * width, height.to(tl.int64) * width + slot
    inside = (offset + flat < total) & (first + height < end) & lanes
    where = (offset, flat, first, height, period, slot, tasks, inside)
    step = read_step(tensors, strides, columns, where, LAYOUTS, ALIGN)
    return step, inside, offset + flat


@triton.jit
def evaluate(x, y, p, params, FUNCTION: tl.constexpr, POWERS: tl.constexpr, SIDED: tl.constexpr):
    if SIDED:
        positive = y > 0
        s = tl.where(positive, -x, x)
        return FUNCTION(s, positive, p, params[0], params[1], params[2], params[3], POWERS)
    else:
        return FUNCTION(x, y, p, params[0], params[1], params[2], params[3], POWERS)


# One compiled kernel serves every shape and stride.
SHAPES = ["tasks", "period", "units", "ends", "rows", "tiles", "split_rows"]
STRIDES = [f"{name}_{axis}" for name in ("mask", "weight", "pos", "sample") for axis in "nt"]
