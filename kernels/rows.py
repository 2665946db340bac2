"""The rows ops of the Triton backend: mtlfast_triton::rows_forward and rows_backward.

Inputs are those of the native ops (csrc/ops.cpp), float64 aside.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import launch
from . import rows_kernels as kernels
from .finish import NONE, REDUCTIONS, finish_kernel
from .launch import WARP, define, processors
from .row_losses import Settings, settings

_FACTORS = """Tensor[] rows, Tensor? same, Tensor? margin, Tensor? sample_weight, Tensor? scale,
    Tensor? bias, """
_SETTINGS = "int loss, float[] params, int reduction"
# A reduction in the terms of finish_kernel, where the one task counts rows with a loss.
_FINISH = {"sum": "sum", "mean": "batchmean", "nonzero": "taskmean"}
_FINISH_ROWS = 1024


class Plan(NamedTuple):
    """How the rows are walked; see rows_kernels.py."""

    align: int  # a divisor of all strides and of D, at most 16
    once: bool  # a row fits a block, and the blocks of all tensors fit the registers
    hold: bool  # the blocks of all tensors fit the registers
    rows: int  # BLOCK_N
    width: int  # BLOCK_D
    threads: int


@functools.cache
def plan(width: int, align: int, tensors: int) -> Plan:
    """Returns the walk for `tensors` tensors of rows of `width` elements.

    A thread takes 8 elements of each of up to 3 tensors, 4 of more, and holds those of up to 4:
    beyond, registers run out. Held rows up to 512 threads wide are read once. Pairs are unrolled:
    of 8 tensors AMD spills, and a list of dozens takes the compiler minutes.
    """
    lane = 8 if tensors <= 3 else 4
    hold = tensors <= 4
    once = hold and width <= 512 * lane
    block = min(triton.next_power_of_2(width), (512 if once else 256) * lane)
    threads = max(block // lane, 128)
    return Plan(align, once, hold, threads * lane // block, block, threads)


def constants(chosen: Settings, plan: Plan, tensors: int) -> dict[str, Any]:
    """Returns what forward_kernel and backward_kernel are compiled for."""
    return {
        "VALUE": chosen.value,
        "TERM": chosen.metric.term,
        "SLOPE": chosen.metric.slope,
        "DISTANCE": chosen.metric.distance,
        "NORMALIZE": chosen.normalize,
        "SQUARED": chosen.squared,
        "SWAP": chosen.swap,
        "SOFT": chosen.soft,
        "PAIRS": tuple((0, k) for k in range(1, tensors)) + ((1, 2),) * chosen.swap,
        "ALIGN": plan.align,
        "ONCE": plan.once,
        "HOLD": plan.hold,
        "BLOCK_N": plan.rows,
        "BLOCK_D": plan.width,
    }


def options(plan: Plan, warp: int) -> dict[str, Any]:
    """Returns the compiler's options on a device with warps of `warp` threads.

    Multiply-adds are not fused: see rows_kernels.py. Left to itself, NVIDIA's assembler would spill
    a few registers to fit one more program on a multiprocessor.
    """
    most = {"maxnreg": min(65536 // plan.threads, 255)} if warp == 32 else {}
    return launch.options(plan.threads, fused=False, warp=warp) | most


def _stride(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.stride(0)


class _Call:
    """The arguments that forward_kernel and backward_kernel share."""

    def __init__(
        self,
        rows: Sequence[Tensor],
        factors: Sequence[Tensor | None],
        loss: int,
        params: Sequence[float],
    ):
        self.samples, width = rows[0].shape
        # One stride serves all from the third on: where they differ, those with gaps are copied.
        if len({row.stride(0) for row in rows[2:]}) > 1:
            rows = (*rows[:2], *(row.contiguous() for row in rows[2:]))
        strides = [row.stride(0) for row in rows]
        align = math.gcd(width, 16, *strides)
        self.plan = plan(width, align, len(rows))
        self.blocks = triton.cdiv(self.samples, self.plan.rows)
        chosen = settings(loss, params)
        self.arguments = (
            tuple(rows),
            *[stride // align for stride in (*strides, 0)[:3]],
            *factors,
            *map(_stride, factors[:3]),
            chosen.gaps,
            chosen.p,
            chosen.eps,
            self.samples,
            width // align,
        )
        self.options = constants(chosen, self.plan, len(rows)) | options(self.plan, WARP)


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
    call = _Call(rows, (same, margin, sample_weight, scale, bias), loss, params)
    # 16 programs on a multiprocessor fill it twice over: more would only leave more partial sums.
    programs = min(call.blocks, 16 * processors(first.get_device()))
    scratch = first.new_empty(0 if none else 1 + 2 * programs, dtype=torch.int32)
    with torch.cuda.device_of(first):
        kernels.forward_kernel[(programs,)](
            *call.arguments,
            value if none else None,
            scratch,
            denominator,
            **call.options,
        )
        if not none:
            finish_kernel[(1,)](
                scratch,
                first.new_empty(2, dtype=torch.float64),
                None,
                None,
                None,
                denominator,
                value,
                programs,
                1,
                call.samples,
                1,
                _FINISH[REDUCTIONS[reduction]],
                False,
                _FINISH_ROWS,
                1,
                **launch.options(256),
            )
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
    found = [rows[k].new_empty(rows[k].shape) for k in wanted]
    if len(rows[0]) == 0 or not wanted:
        return found
    call = _Call(rows, (same, margin, sample_weight, scale, bias), loss, params)
    places = {k: place for place, k in enumerate(wanted)}
    with torch.cuda.device_of(rows[0]):
        kernels.backward_kernel[(call.blocks,)](
            *call.arguments,
            grad_loss,
            grad_loss.stride(0) if reduction == NONE else 0,
            denominator,
            tuple(found),
            PLACES=tuple(places.get(k, -1) for k in range(len(rows))),
            **call.options,
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
