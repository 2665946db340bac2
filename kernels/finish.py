"""The second launch of a forward pass: partial sums in; losses, counts and denominators out.

A partial sum is 64 bits: a count above, the bits of a float32 below. Those of a column lie side by
side: of the one task of a rows loss, of a task, or of the `period` slots that make up a task.
Everything is added in float64, in a fixed order: nothing is lost beyond what the main pass rounded.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# In the order of their numbers.
REDUCTIONS = ("none", "sum", "mean", "batchmean", "taskmean", "nonzero")
NONE = REDUCTIONS.index("none")


@triton.jit
def _finish_scalars(
    value, divisor, loss, denominator, tasks, REDUCTION: tl.constexpr, WIDTH: tl.constexpr
):
    # Of "mean", whose divisor all tasks share.
    if REDUCTION == "mean":
        divisor = tl.where(divisor == 0, 1.0, divisor)
        value /= divisor
        for first in range(0, tasks, WIDTH):
            task = first + tl.arange(0, WIDTH)
            everywhere = tl.zeros([WIDTH], tl.float64) + divisor
            tl.store(denominator + task, everywhere, task < tasks)
    if loss is not None:
        tl.store(loss, value)


@triton.jit(do_not_specialize=["tasks", "period", "parts", "batch"])
def sums_kernel(
    partials, partial_weights, task_weight, task_loss, count, denominator, loss, scalars,
    tasks, period, parts, batch,
    REDUCTION: tl.constexpr, WEIGHTED: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
    BATCH: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    # Each program finishes COLUMNS tasks, and all but "mean" where it is alone: no `scalars`.
    if OVERLAPS:
        gdc_launch_dependents()
    group = tl.program_id(0)
    task = group * COLUMNS + tl.arange(0, COLUMNS)
    inside = task < tasks
    sums = tl.zeros([COLUMNS, PARTS], tl.float64)
    counts = tl.zeros([COLUMNS, PARTS], tl.int32)
    weights = tl.zeros([COLUMNS, PARTS], tl.float64)
    if OVERLAPS:
        gdc_wait()
    for k in range(period):
        column = (k * tasks + task)[:, None].to(tl.int64) * parts
        for first in range(0, parts, PARTS * BATCH):
            several = ()
            for i in tl.static_range(BATCH):
                part = first + i * PARTS + tl.arange(0, PARTS)[None, :]
                here = (part < parts) & inside[:, None]
                found = tl.load(partials + column + part, here, other=0)
                weight = 0.0
                if WEIGHTED:
                    weight = tl.load(partial_weights + column + part, here, other=0)
                several += ((found, weight),)
            for i in tl.static_range(BATCH):
                counts += (several[i][0] >> 32).to(tl.int32)
                sums += several[i][0].to(tl.int32).to(tl.float32, bitcast=True)
                if WEIGHTED:
                    weights += several[i][1]
    total = tl.sum(sums, 1)
    labelled = tl.sum(counts.to(tl.int64), 1)
    own = tl.maximum(labelled, 1).to(tl.float64)
    if task_loss is not None:
        tl.store(task_loss + task, total / own, inside)
        tl.store(count + task, labelled, inside)
    divisor = tl.full([COLUMNS], 1.0, tl.float64)
    if REDUCTION == "batchmean":
        divisor *= batch
    if REDUCTION == "taskmean":
        divisor = own
    if REDUCTION != "mean":
        tl.store(denominator + task, divisor, inside)
    if REDUCTION != "none":
        if task_weight is not None:
            factor = tl.load(task_weight + task, inside, other=0)
            total = tl.where(labelled > 0, total * factor, 0.0)
        value = tl.sum(tl.where(inside, total / divisor, 0.0))
        over = tl.sum(weights) if WEIGHTED else tl.sum(labelled).to(tl.float64)
        if scalars is None:
            _finish_scalars(value, over, loss, denominator, tasks, REDUCTION, COLUMNS)
        else:
            tl.store(scalars + 2 * group, value)
            tl.store(scalars + 2 * group + 1, over)


@triton.jit(do_not_specialize=["groups", "tasks"])
def finish_kernel(
    scalars, loss, denominator, groups, tasks,
    REDUCTION: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    # The third launch, where there are several groups of tasks: adds up what they found.
    if OVERLAPS:
        gdc_wait()
    value = tl.zeros([WIDTH], tl.float64)
    over = tl.zeros([WIDTH], tl.float64)
    for first in range(0, groups, WIDTH):
        group = first + tl.arange(0, WIDTH)
        value += tl.load(scalars + 2 * group, group < groups, other=0)
        over += tl.load(scalars + 2 * group + 1, group < groups, other=0)
    _finish_scalars(tl.sum(value), tl.sum(over), loss, denominator, tasks, REDUCTION, WIDTH)
