"""The rows ops of the Triton backend: mtlfast_triton::rows_forward and rows_backward.

Inputs are those of the native ops (csrc/ops.cpp), float64 aside.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import rows_kernels as kernels
from .finish import NONE, REDUCTIONS
from .launch import WARP, Launch, Options, define, divide_up, overlaps
from .row_losses import SQUARES, Settings, settings
from .sums import Sums, sums_of

_FACTORS = """Tensor[] rows, Tensor? same, Tensor? margin, Tensor? sample_weight, Tensor? scale,
    Tensor? bias, """
_SETTINGS = "int loss, float[] params, int reduction"

# A reduction in the terms of sums_kernel, where the one task counts rows with a loss.
_FINISH = {"sum": "sum", "mean": "batchmean", "nonzero": "taskmean"}
# Of a warp: 128 for each of Hopper's 132 multiprocessors, several waves, so that it hardly shows
# when the last one is short. More where no program adds up what the others found.
_PROGRAMS = 16896
_PROGRAMS_BACKWARD = 4 * _PROGRAMS


class Plan(NamedTuple):
    """How the rows are walked; see rows_kernels.py."""

    align: int  # a divisor of all strides and of D, at most 16
    once: bool  # a row fits a block, and the blocks of all tensors fit the registers
    hold: bool  # the blocks of all tensors fit the registers
    rows: int  # BLOCK_N
    width: int  # BLOCK_D
    threads: int

    @property
    def options(self) -> Options:
        """Multiply-adds are not fused: see rows_kernels.py."""
        return Options(self.threads, fused=False, registers=min(65536 // self.threads, 128))


@functools.cache
def plan(width: int, align: int, tensors: int, warp: int = WARP) -> Plan:
    """Returns the walk for `tensors` tensors of rows of `width` elements.

    A thread takes 8 elements of each of up to 4 tensors, and holds them, 4 of more: beyond,
    registers run out. Held rows up to 512 threads wide are read once. A program is one warp
    where a row fits, which never waits for another. Pairs are unrolled: of 8 tensors AMD spills,
    and a list of dozens takes the compiler minutes.
    """
    hold = tensors <= 4
    lane = 8 if hold else 4
    once = hold and width <= 512 * lane
    block = min(triton.next_power_of_2(width), (512 if once else 256) * lane)
    threads = max(block // lane, warp)
    return Plan(align, once, hold, threads * lane // block, block, threads)


def constants(chosen: Settings, plan: Plan, tensors: int) -> dict[str, Any]:
    """Returns what forward_kernel and backward_kernel are compiled for."""
    pairs = tuple((0, k) for k in range(1, tensors)) + ((1, 2),) * chosen.swap
    every = itertools.combinations(range(tensors), 2)
    usual = chosen.metric is SQUARES and chosen.normalize and chosen.eps == 0
    return {
        "VALUE": chosen.value,
        "TERM": chosen.metric.term,
        "SLOPE": chosen.metric.slope,
        "DISTANCE": chosen.metric.distance,
        "NORMALIZE": chosen.normalize,
        "SQUARED": chosen.squared,
        "SWAP": chosen.swap,
        "SOFT": chosen.soft,
        "PAIRS": pairs,
        "OTHERS": tuple(pair for pair in every if pair not in pairs),
        "ALIGN": plan.align,
        "ONCE": plan.once,
        "HOLD": plan.hold,
        "PRODUCTS": usual and plan.once,
        "BLOCK_N": plan.rows,
        "BLOCK_D": plan.width,
    }


def _stride(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.stride(0)


class Prepared(NamedTuple):
    """What calls of the same shapes and settings share."""

    launch: Launch
    integers: tuple[int, ...]
    floats: tuple[Any, ...]
    sums: Sums | None  # forward, of a loss


@functools.lru_cache(maxsize=1024)
def prepared(
    shape: tuple[int, int],
    strides: tuple[int, ...],
    of_factors: tuple[int, int, int],
    device: int,
    loss: int,
    params: tuple[float, ...],
    reduction: int | None,
    wanted: tuple[int, ...] = (),
) -> Prepared:
    """Returns what a forward launch takes, or without a `reduction` a backward one.

    `strides`: of the rows; `of_factors`: of same, margin and sample_weight. `wanted`: the indices
    of the rows that have gradients.
    """
    samples, width = shape
    tensors = len(strides)
    align = math.gcd(width, 16, *strides)
    walk = plan(width, align, tensors)
    chosen = settings(loss, params)
    values = tuple(constants(chosen, walk, tensors).values())
    three = [stride // align for stride in (*strides, 0)[:3]]
    integers = (*three, *of_factors, samples, width // align)
    floats = (chosen.gaps, chosen.p, chosen.eps)
    blocks = divide_up(samples, walk.rows)
    if reduction is None:
        places = {k: place for place, k in enumerate(wanted)}
        values = (*values, tuple(places.get(k, -1) for k in range(tensors)))
        most = _PROGRAMS_BACKWARD * WARP // walk.threads if walk.hold else blocks
        programs = min(blocks, most)
        launch = Launch(kernels.backward_kernel, programs, values, walk.options)
        return Prepared(launch, integers, floats, None)
    programs = min(blocks, _PROGRAMS * WARP // walk.threads)
    sums = None
    if reduction != NONE:
        finished = REDUCTIONS.index(_FINISH[REDUCTIONS[reduction]])
        sums = sums_of(1, 1, programs, False, finished, device)
    values = (*values, sums is not None and overlaps(device))
    return Prepared(
        Launch(kernels.forward_kernel, programs, values, walk.options), integers, floats, sums
    )


def _in_step(rows: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Returns the rows and their strides, equal from the third on: else those with gaps are copied.

    One stride serves all of those.
    """
    if len({row.stride(0) for row in rows[2:]}) > 1:
        rows = (*rows[:2], *(row.contiguous() for row in rows[2:]))
    return tuple(rows), tuple([row.stride(0) for row in rows])


def _forward(
    rows: Sequence[Tensor],
    same: Tensor | None,
    margin: Tensor | None,
    sample_weight: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    loss: int,
    params: Sequence[float],
    reduction: int,
) -> tuple[Tensor, Tensor]:
    first, none = rows[0], reduction == NONE
    denominator = first.new_empty((), dtype=torch.float32)
    value = first.new_empty(len(first)) if none else torch.empty_like(denominator)
    if len(first) == 0:
        return value.zero_(), denominator.fill_(1)
    device = first.get_device()
    given, strides = _in_step(rows)
    factors = (_stride(same), _stride(margin), _stride(sample_weight))
    call = prepared(first.shape, strides, factors, device, loss, tuple(params), reduction)
    scratch = (None, None) if call.sums is None else call.sums.scratch(first)
    elements = value if none else None
    call.launch(
        device,
        (given, same, margin, sample_weight, scale, bias, elements, scratch[0], denominator),
        call.integers,
        call.floats,
    )
    if call.sums is not None:
        call.sums(device, scratch, len(first), None, None, None, denominator, value)
    return value, denominator


def _backward(
    grad_loss: Tensor,
    rows: Sequence[Tensor],
    same: Tensor | None,
    margin: Tensor | None,
    sample_weight: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    denominator: Tensor,
    loss: int,
    params: Sequence[float],
    reduction: int,
    wanted: Sequence[int],
) -> list[Tensor]:
    first = rows[0]
    found = [rows[k].new_empty(rows[k].shape) for k in wanted]
    if len(first) == 0 or not wanted:
        return found
    device = first.get_device()
    given, strides = _in_step(rows)
    factors = (_stride(same), _stride(margin), _stride(sample_weight))
    call = prepared(first.shape, strides, factors, device, loss, tuple(params), None, tuple(wanted))
    call.launch(
        device,
        (given, same, margin, sample_weight, scale, bias, grad_loss, denominator, tuple(found)),
        (*call.integers, grad_loss.stride(0) if reduction == NONE else 0),
        call.floats,
    )
    return found


rows_forward = define(
    f"rows_forward({_FACTORS}{_SETTINGS}) -> (Tensor loss, Tensor denominator)",
    _forward,
)
rows_backward = define(
    f"rows_backward(Tensor grad_loss, {_FACTORS}Tensor denominator, {_SETTINGS}, int[] wanted)"
    " -> Tensor[]",
    _backward,
)
