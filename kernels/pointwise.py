"""The pointwise ops of the Triton backend: mtlfast_triton::pointwise_forward and _backward.

Block shapes follow from the shape of the problem: nothing is benchmarked inside a user's call.
Inputs are those of the native ops (csrc/ops.cpp), float64 aside.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .finish import NONE, REDUCTIONS
from .launch import Launch, Options, define, overlaps
from .losses import POINTWISE
from .pointwise_backward import backward_kernel
from .pointwise_forward import forward_kernel
from .pointwise_plan import HEIGHT, THREADS, plan
from .sums import Sums, sums_of

_SIGNATURE = """(Tensor logits, Tensor target, Tensor? mask, Tensor? weight, Tensor? pos_weight,
    Tensor? sample_weight, Tensor? task_weight, """
_SETTINGS = "int loss, float[] params, int reduction)"
_FUNCTORS = tuple(POINTWISE.values())  # by number
_BYTES = (torch.int8, torch.uint8, torch.bool)
_FEW_TASKS = 64  # programs fold the slots of so few tasks themselves


def _layouts(operands: Sequence[Tensor | None], vector: int) -> tuple[tuple[int, ...], list[int]]:
    """Returns how expanded (N, T) operands lie, and their strides where they are needed."""
    layouts, strides = [], []
    for tensor in operands:
        layout = rows = columns = 0
        if tensor is None:
            pass
        elif tensor.is_contiguous():
            layout = 1
        else:
            rows, columns = tensor.stride()
            along = 3 if tensor.shape[1] % vector == 0 else 4
            layout = 2 if rows == 0 else along if columns == 0 else 5
        layouts.append(layout)
        strides += (rows, columns)
    return tuple(layouts), strides


def _registers(alone: int, itemsize: int, layouts: tuple[int, ...], stores: bool) -> int:
    """Returns a thread's registers: for 32, 24 or 16 warps on a multiprocessor.

    `alone`: what a loss of float32 takes with no operands beside logits and targets. Twice as many
    elements of 16 bits are in a step. Of operands, one that is read once for a row or a column, or
    a mask, costs few registers; values of elements are as many as the logits. `stores`: the forward
    does, too.
    """
    mask, *others = layouts
    heavy = mask > 3 or any(layout in (1, 4, 5) for layout in others)
    several = heavy or sum(layout > 0 for layout in layouts) > 1
    steps = (64, 80, 128)
    at = steps.index(alone) + (itemsize < 4) + any(layouts) + several + stores
    return steps[min(at, 2)]


class Prepared(NamedTuple):
    """What calls of the same shapes and settings share."""

    launch: Launch
    integers: tuple[int, ...]  # before the strides
    more: tuple[int, ...]  # after them
    floats: tuple[float, ...]
    sums: Sums | None  # forward


@functools.lru_cache(maxsize=1024)
def prepared(
    shape: tuple[int, int],
    itemsize: int,
    has_bytes: bool,
    device: int,
    layouts: tuple[int, ...],
    loss: int,
    params: tuple[float, ...],
    reduction: int | None,
) -> Prepared:
    """Returns what a forward launch takes, or without a `reduction` a backward one."""
    forward = reduction is not None
    functor, tasks = _FUNCTORS[loss], shape[1]
    registers = _registers(functor.registers, itemsize, layouts, reduction == NONE)
    walk = plan(*shape, itemsize, functor.batch, 65536 // (registers * THREADS), forward)
    options = Options(THREADS, registers=registers)
    smoothing, *rest = params
    powers, on_side = functor.powers(rest), None
    if has_bytes and smoothing == 0 and functor.covers(rest):
        on_side = functor.sided[0 if forward else 1]
    constants = (
        *(functor.value if forward else functor.grad, on_side, powers),
        *(functor.classification, layouts, walk.align, walk.end),
        *(HEIGHT, 32 * walk.vector, walk.batch),
    )
    units, ends = walk.width // walk.align, walk.total // walk.end
    integers = tasks, walk.period, units, ends, walk.rows, walk.tiles, walk.split_rows
    floats = (1 - smoothing, smoothing / 2, *rest, *[0.0] * (4 - len(rest)))
    if not forward:
        launch = Launch(backward_kernel, walk.programs, constants, options)
        return Prepared(launch, integers, (), floats, None)
    weighted = functor.weighted_mean and layouts[1] > 0 and REDUCTIONS[reduction] == "mean"
    folded = tasks <= _FEW_TASKS
    parts, period = (walk.programs, 1) if folded else (walk.splits, walk.period)
    constants = (*constants, weighted, folded, overlaps(device))
    launch = Launch(forward_kernel, walk.programs, constants, options)
    # Lanes of a task in a tile, but one, in bits: each step of folding adds twice as many.
    folds = ((32 * walk.vector - 1) // tasks).bit_length()
    sums = sums_of(tasks, period, parts, weighted, reduction, device)
    return Prepared(launch, integers, (parts, folds), floats, sums)


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
    samples, tasks = shape = logits.shape
    task_loss = logits.new_empty(tasks, dtype=torch.float32)
    denominator = torch.empty_like(task_loss)
    count = torch.empty_like(task_loss, dtype=torch.int64)
    none = reduction == NONE
    value = torch.empty_like(logits) if none else logits.new_empty((), dtype=torch.float32)
    if samples == 0 or tasks == 0:
        return value.zero_(), task_loss.zero_(), count.zero_(), denominator.fill_(1)
    device, itemsize = logits.get_device(), logits.element_size()
    operands = (mask, weight, pos_weight, sample_weight)
    layouts, strides = _layouts(operands, 16 // itemsize)
    call = prepared(
        shape, itemsize, target.dtype in _BYTES, device, layouts, loss, tuple(params), reduction
    )
    scratch = call.sums.scratch(logits)
    elements = (task_weight, value) if none else (None, None)
    call.launch(
        device,
        (logits, target, *operands, *elements, *scratch),
        (*call.integers, *strides, *call.more),
        call.floats,
    )
    factor, total = (None, None) if none else (task_weight, value)
    call.sums(device, scratch, samples, factor, task_loss, count, denominator, total)
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
    device, itemsize = logits.get_device(), logits.element_size()
    operands = (mask, weight, pos_weight, sample_weight)
    upstream = grad_loss if reduction == NONE else None
    layouts, strides = _layouts((*operands, upstream), 16 // itemsize)
    call = prepared(
        logits.shape, itemsize, target.dtype in _BYTES, device, layouts, loss, tuple(params), None
    )
    of_tasks = (task_weight, count, denominator, grad_task_loss)
    call.launch(
        device,
        (logits, target, *operands, grad_loss, *of_tasks, gradient),
        (*call.integers, *strides),
        call.floats,
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
