"""The second launch of a forward pass: partial sums in; losses, counts and denominators out."""

import triton
import triton.language as tl

# In the order of their numbers.
REDUCTIONS = ("none", "sum", "mean", "batchmean", "taskmean", "nonzero")
NONE = REDUCTIONS.index("none")


@triton.jit(do_not_specialize=["rows", "tasks", "batch", "tiles"])
def finish_kernel(
    scratch, parts, task_weight, task_loss, count, denominator, loss, rows, tasks, batch, tiles,
    REDUCTION: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    # Each program finishes WIDTH tasks; the last one to arrive adds up the scalar, in fixed order.
    tile = tl.program_id(0)
    task = tile * WIDTH + tl.arange(0, WIDTH)
    inside = task < tasks
    # In float64, down ROWS columns of partial sums and then in a tree: nothing is lost beyond what
    # the main pass rounded. Counts are exact.
    kind = rows.to(tl.int64) * tasks
    sums = tl.zeros([ROWS, WIDTH], tl.float64)
    counts = tl.zeros([ROWS, WIDTH], tl.int64)
    weights = tl.zeros([ROWS, WIDTH], tl.float64)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)[:, None].to(tl.int64)
        here = (row < rows) & inside[None, :]
        at = scratch + 1 + row * tasks + task[None, :]
        sums += tl.load(at, here, other=0).to(tl.float32, bitcast=True)
        counts += tl.load(at + kind, here, other=0)
        if WEIGHTED:
            weights += tl.load(at + 2 * kind, here, other=0).to(tl.float32, bitcast=True)
    total = tl.sum(sums, 0)
    labelled = tl.sum(counts, 0)
    own = tl.maximum(labelled, 1).to(tl.float64)
    if task_loss is not None:
        tl.store(task_loss + task, total / own, inside)
        tl.store(count + task, labelled, inside)
    divisor = tl.full([WIDTH], 1.0, tl.float64)
    if REDUCTION == "batchmean":
        divisor *= batch
    if REDUCTION == "taskmean":
        divisor = own
    if REDUCTION != "mean":
        tl.store(denominator + task, divisor, inside)

    if loss is not None:
        if task_weight is not None:
            factor = tl.load(task_weight + task, inside, other=0)
            total = tl.where(labelled > 0, total * factor, 0.0)
        tl.store(parts + tile, tl.sum(tl.where(inside, total / divisor, 0.0)))
        over = tl.sum(weights) if WEIGHTED else tl.sum(labelled).to(tl.float64)
        tl.store(parts + tiles + tile, over)
        # Every thread's stores, then the ticket that publishes them. forward_kernel zeroed it: a
        # counter in the call's own scratch can't be shared by two streams or graph replays.
        tl.debug_barrier()
        ticket = tl.atomic_add(scratch, 1, sem="acq_rel")
        if ticket == tiles - 1:
            # .cg reads L2, where the other programs' stores are.
            value = tl.zeros([WIDTH], tl.float64)
            over_all = tl.zeros([WIDTH], tl.float64)
            for first in range(0, tiles, WIDTH):
                part = first + tl.arange(0, WIDTH)
                there = part < tiles
                value += tl.load(parts + part, there, other=0, cache_modifier=".cg")
                over_all += tl.load(parts + tiles + part, there, other=0, cache_modifier=".cg")
            result = tl.sum(value)
            if REDUCTION == "mean":
                shared = tl.sum(over_all)
                shared = tl.where(shared == 0, 1.0, shared)
                result /= shared
                for first in range(0, tasks, WIDTH):
                    column = first + tl.arange(0, WIDTH)
                    everywhere = tl.zeros([WIDTH], tl.float64) + shared
                    tl.store(denominator + column, everywhere, column < tasks)
            tl.store(loss, result)
