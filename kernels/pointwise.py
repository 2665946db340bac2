"""The pointwise ops of the Triton backend: mtlfast_triton::pointwise_forward and _backward.

Block shapes follow from the shape of the problem: nothing is benchmarked inside a user's call.
Inputs are those of the native ops (csrc/ops.cpp), float64 aside.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import pointwise_kernels as kernels
from .finish import NONE, REDUCTIONS, finish_kernel
from .launch import define, options, processors
from .losses import POINTWISE

_SIGNATURE = """(Tensor logits, Tensor target, Tensor? mask, Tensor? weight, Tensor? pos_weight,
    Tensor? sample_weight, Tensor? task_weight, """
_SETTINGS = "int loss, float[] params, int reduction)"
_THREADS = 256  # a program, on warps of 32 and of 64 alike
_MAX_SCRATCH = 4 << 20  # bytes of partial sums
_OPTIONS = options(_THREADS)
_FUNCTORS = tuple(POINTWISE.values())  # by number
# Which of a loss's parameters may become POWER.
_EXPONENTS = [f.parameters.index(f.exponent) if f.exponent else None for f in _FUNCTORS]


class Plan(NamedTuple):
    """How an (N, T) matrix is walked; see pointwise_kernels.py."""

    period: int  # rows side by side in a super-row
    align: int  # a divisor of the super-row's length, at most 16
    rows: int  # super-rows in a block
    width: int  # lanes in a block
    tiles: int  # blocks that make up a super-row


@functools.cache
def plan(tasks: int, itemsize: int) -> Plan:
    """Returns the walk for `tasks` tasks and logits of `itemsize` bytes.

    A thread takes 16 bytes of each of `rows` super-rows, 8 elements: with 16 the forward kernel
    needs half as many registers again, and fewer warps hide the latency. The period is the one that
    leaves the fewest lanes idle among those that keep 16-byte loads aligned, as far as one does.
    """
    lane = 16 // itemsize
    width = lane * _THREADS

    def fitness(period: int) -> tuple[float, int, int]:
        length = period * tasks
        tiles = triton.cdiv(length, width)
        filled = length / (tiles * width) * min(math.gcd(length, lane) / lane, 1)
        return round(filled, 1), -tiles, period if tiles == 1 else -period

    # Several tiles hold a few rows at most: their partial sums are not folded onto the tasks.
    longest = max(width // tasks, min(16, (1 << 16) // tasks), 1)
    period = max(range(1, longest + 1), key=fitness)
    length = period * tasks
    return Plan(period, math.gcd(length, 16), 8 // lane, width, triton.cdiv(length, width))


def _splits(super_rows: int, block: int, most: int) -> tuple[int, int]:
    """Returns (super-rows in a split, splits), at most `most` of them, in whole blocks."""
    partition = block * max(triton.cdiv(triton.cdiv(super_rows, block), max(most, 1)), 1)
    return partition, max(triton.cdiv(super_rows, partition), 1)


def _layout(tensor: Tensor | None) -> tuple[int, int, int]:
    """Returns how an expanded (N, T) operand is laid out, and its strides where they are needed."""
    if tensor is None:
        return 0, 0, 0
    if tensor.is_contiguous():
        return 1, 0, 0
    rows, columns = tensor.stride()
    return (2 if rows == 0 else 3), rows, columns


class _Call:
    """The arguments that forward_kernel and backward_kernel share."""

    def __init__(self, tensors: Sequence[Tensor | None], loss: int, params: Sequence[float]):
        logits = tensors[0]
        self.functor = _FUNCTORS[loss]
        self.batch, self.tasks = logits.shape
        self.plan = plan(self.tasks, logits.element_size())
        self.super_rows, left = divmod(self.batch, self.plan.period)
        self.tail = left * self.tasks
        self.processors = processors(logits.get_device())
        smoothing, *rest = params
        self.floats = (1 - smoothing, smoothing / 2, *rest, *[0.0] * (4 - len(rest)))
        power, index = -1, _EXPONENTS[loss]
        if index is not None and rest[index] in (0, 1, 2, 4):
            power = int(rest[index])
        self.labels = (power, self.functor.classification)
        layouts = [_layout(t) for t in tensors[2:6]]
        self.kinds = [kind for kind, _, _ in layouts]
        self.strides = [stride for layout in layouts for stride in layout[1:]]

    def shape(self, partition: int, splits: int) -> tuple[int, ...]:
        plan = self.plan
        units = plan.period * self.tasks // plan.align
        return (
            self.tasks,
            plan.period,
            units,
            self.super_rows,
            self.tail,
            partition,
            splits,
            plan.tiles,
        )

    @property
    def block(self) -> tuple[int, int, int]:
        return self.plan.align, self.plan.rows, self.plan.width


def _forward(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    sample_weight: Tensor | None,
    task_weight: Tensor | None,
    loss: int,
    params: Sequence[float],
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    none, tasks = reduction == NONE, logits.shape[1]
    per_task = functools.partial(logits.new_empty, tasks)
    task_loss, denominator = per_task(dtype=torch.float32), per_task(dtype=torch.float32)
    count = per_task(dtype=torch.int64)
    value = torch.empty_like(logits) if none else logits.new_empty((), dtype=torch.float32)
    if logits.numel() == 0:
        return value.zero_(), task_loss.zero_(), count.zero_(), denominator.fill_(1)
    tensors = (logits, target, mask, weight, pos_weight, sample_weight)
    call = _Call(tensors, loss, params)
    plan = call.plan
    weighted = call.functor.weighted_mean and weight is not None and REDUCTIONS[reduction] == "mean"
    slots = call.tasks if plan.tiles == 1 else call.tasks * plan.period
    kinds = 3 if weighted else 2
    # 3 to 6 programs of 40 to 80 registers a thread fit a multiprocessor at once: 12 for each make
    # whole waves of 3, 4 or 6. A short batch gets fewer: finish_kernel reads what each wrote.
    programs = triton.cdiv(call.super_rows, plan.rows) * plan.tiles // 8
    programs = min(max(programs, 3 * call.processors), 12 * call.processors)
    most = min(triton.cdiv(programs, plan.tiles), _MAX_SCRATCH // (4 * kinds * slots))
    partition, splits = _splits(call.super_rows, plan.rows, most)
    scratch = logits.new_empty(1 + kinds * splits * slots, dtype=torch.int32)
    rows = splits * slots // call.tasks
    # A column of many partials is split over the threads of a program, few partials over columns.
    height, columns = (256, 16) if rows > 32 else (32, 128)
    tiles = triton.cdiv(call.tasks, columns)
    parts = logits.new_empty(2 * tiles, dtype=torch.float64)
    with torch.cuda.device_of(logits):
        kernels.forward_kernel[(splits * plan.tiles,)](
            *tensors,
            task_weight if none else None,
            value if none else None,
            scratch,
            *call.strides,
            *call.shape(partition, splits),
            (plan.period - 1).bit_length(),
            *call.floats,
            call.functor.value,
            *call.labels,
            weighted,
            *call.kinds,
            *call.block,
            **_OPTIONS,
        )
        finish_kernel[(tiles,)](
            scratch,
            parts,
            None if none else task_weight,
            task_loss,
            count,
            denominator,
            None if none else value,
            rows,
            call.tasks,
            call.batch,
            tiles,
            REDUCTIONS[reduction],
            weighted,
            height,
            columns,
            **_OPTIONS,
        )
    return value, task_loss, count, denominator


def _backward(
    grad_loss: Tensor | None,
    grad_task_loss: Tensor | None,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    sample_weight: Tensor | None,
    task_weight: Tensor | None,
    count: Tensor,
    denominator: Tensor,
    loss: int,
    params: Sequence[float],
    reduction: int,
) -> Tensor:
    gradient = torch.empty_like(logits)
    if logits.numel() == 0:
        return gradient
    tensors = (logits, target, mask, weight, pos_weight, sample_weight)
    call = _Call(tensors, loss, params)
    kind, rows, columns = _layout(grad_loss) if reduction == NONE else (0, 0, 0)
    # Up to 8 blocks share a lane's coefficient, once every multiprocessor has 16 programs.
    blocks = triton.cdiv(call.super_rows, call.plan.rows)
    steps = min(max(blocks * call.plan.tiles // (16 * call.processors), 1), 8)
    partition, splits = _splits(call.super_rows, call.plan.rows, triton.cdiv(blocks, steps))
    with torch.cuda.device_of(logits):
        kernels.backward_kernel[(splits * call.plan.tiles,)](
            *tensors,
            task_weight,
            count,
            denominator,
            grad_loss,
            grad_task_loss,
            gradient,
            *call.strides,
            rows,
            columns,
            *call.shape(partition, splits),
            *call.floats,
            call.functor.grad,
            *call.labels,
            *call.kinds,
            kind,
            *call.block,
            **_OPTIONS,
        )
    return gradient


pointwise_forward = define(
    f"pointwise_forward{_SIGNATURE}{_SETTINGS}"
    " -> (Tensor loss, Tensor task_loss, Tensor count, Tensor denominator)",
    _forward,
)
pointwise_backward = define(
    "pointwise_backward(Tensor? grad_loss, Tensor? grad_task_loss, "
    f"{_SIGNATURE[1:]}Tensor count, Tensor denominator, {_SETTINGS} -> Tensor",
    _backward,
)
