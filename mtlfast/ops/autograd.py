"""One autograd.Function per family: what is saved, and which gradient comes from where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor

from mtlfast.ops import reference_ops
from mtlfast.ops.catalogue import NONE

# Positions of the operands after logits and target, in the order of the ops' schema.
OPERANDS = ("mask", "weight", "pos_weight", "sample_weight", "task_weight")
_TASK_WEIGHT = OPERANDS.index("task_weight")
_NONE_GIVEN = (None,) * len(OPERANDS)
Settings = tuple[int, Sequence[float], int]  # loss, params, reduction


def _in_places(slots: Sequence[int], given: Sequence[Tensor]) -> Any:
    """Returns the five operands, None where not given."""
    if not slots:
        return _NONE_GIVEN
    operands: list[Tensor | None] = [None] * len(OPERANDS)
    for slot, operand in zip(slots, given, strict=True):
        operands[slot] = operand
    return operands


class Pointwise(torch.autograd.Function):
    """Runs a backend's forward and backward op; the reference gives the gradients they don't.

    The backward op recomputes from logits and targets, so nothing of size (N, T) is saved. The
    gradient of task_weight follows from the saved task losses; those of target, weight, pos_weight
    and sample_weight, and every gradient under ``create_graph``, come from the reference.

    Only operands that are given are inputs (`slots` says which they are): each input and each saved
    tensor costs a tenth of a microsecond.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        settings: Settings,
        ops: ModuleType,
        return_tasks: bool,
        slots: Sequence[int],
        *given: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Returns the loss, with `return_tasks` also task losses and counts."""
        ctx.call = (settings, ops, slots)
        ctx.set_materialize_grads(False)
        value, task_loss, count, denominator = ops.pointwise_forward(
            logits, target, *_in_places(slots, given), *settings
        )
        ctx.save_for_backward(task_loss, count, denominator, logits, target, *given)
        if not return_tasks:
            return value
        ctx.mark_non_differentiable(count)
        return value, task_loss, count

    @staticmethod
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_task_loss: Tensor | None = None, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Returns the gradients of logits, target and the given operands."""
        settings, ops, slots = ctx.call
        task_loss, count, denominator, logits, target, *given = ctx.saved_tensors
        need_logits, need_target, _, _, _, _, *need_given = ctx.needs_input_grad
        needs = [need_logits, need_target, *need_given]
        grads: list[Tensor | None] = [None] * len(needs)
        upstream = (grad_loss, None if grad_task_loss is None else grad_task_loss.contiguous())
        if grad_loss is None and grad_task_loss is None:
            needs = []
        elif _kernels_serve(upstream):
            if need_logits:
                needs[0] = False
                grads[0] = ops.pointwise_backward(
                    *upstream,
                    logits,
                    target,
                    *_in_places(slots, given),
                    count,
                    denominator,
                    *settings,
                )
            if slots and slots[-1] == _TASK_WEIGHT and needs[-1] and settings[2] != NONE:
                needs[-1] = False
                if grad_loss is not None:
                    # In float64: three roundings more would break the accuracy rule.
                    wide = grad_loss * task_loss.double() * count / denominator
                    grads[-1] = torch.where(count > 0, wide, 0).to(task_loss.dtype)
        if any(needs):

            def recompute(logits: Tensor, target: Tensor, *given: Tensor) -> Sequence[Tensor]:
                return reference_ops.pointwise(logits, target, *_in_places(slots, given), *settings)

            fill_from_reference(grads, needs, upstream, (logits, target, *given), recompute)
        return (*grads[:2], None, None, None, None, *grads[2:])


class Rows(torch.autograd.Function):
    """The same for the rows family: the backward op recomputes the distances from the rows.

    Gradients of sample_weight, scale and bias come from the reference; margin gets none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        settings: Settings,
        ops: ModuleType,
        same: Tensor | None,
        margin: Tensor | None,
        sample_weight: Tensor | None,
        scale: Tensor | None,
        bias: Tensor | None,
        *rows: Tensor,
    ) -> Tensor:
        """Returns the loss."""
        ctx.call = (settings, ops)
        ctx.set_materialize_grads(False)
        factors = (same, margin, sample_weight, scale, bias)
        value, denominator = ops.rows_forward(rows, *factors, *settings)
        ctx.save_for_backward(denominator, *factors, *rows)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """Returns the gradients of sample_weight, scale, bias and the rows."""
        settings, ops = ctx.call
        denominator, same, margin, *tensors = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[4:])
        grads: list[Tensor | None] = [None] * len(needs)
        wanted = [i for i, need in enumerate(needs[3:]) if need]
        if upstream[0] is None:
            needs = []
        elif wanted and _kernels_serve(upstream):
            needs[3:] = [False] * len(needs[3:])
            found = ops.rows_backward(
                upstream[0], tensors[3:], same, margin, *tensors[:3], denominator, *settings, wanted
            )
            for i, grad in zip(wanted, found, strict=True):
                grads[3 + i] = grad
        if any(needs):

            def recompute(
                sample_weight: Tensor | None,
                scale: Tensor | None,
                bias: Tensor | None,
                *rows: Tensor,
            ) -> Sequence[Tensor]:
                return reference_ops.rows(rows, same, margin, sample_weight, scale, bias, *settings)

            fill_from_reference(grads, needs, upstream, tensors, recompute)
        return (None, None, None, None, *grads)


def _kernels_serve(upstream: Sequence[Tensor | None]) -> bool:
    """Whether a backward needs no gradients of its own, nor takes many upstream ones at once."""
    if torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        return True
    for grad in upstream:
        if grad is not None and (is_batchedtensor(grad) or is_legacy_batchedtensor(grad)):
            return False
    return True


def fill_from_reference(
    grads: list[Tensor | None],
    needs: Sequence[bool],
    upstream: Sequence[Tensor | None],
    tensors: Sequence[Tensor | None],
    recompute: Callable[..., Sequence[Tensor]],
) -> None:
    """Fills in the gradients that `needs` asks for, differentiably under ``create_graph``.

    `recompute(*tensors)` gives the outputs that the upstream gradients belong to, and maybe more.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, so that an input computed from another one is not counted twice.
        aliases: Any = [
            t if t is None or not need else t.view_as(t)
            for t, need in zip(tensors, needs, strict=True)
        ]
        pairs = zip(recompute(*aliases), upstream, strict=False)
        used = [(o, g) for o, g in pairs if g is not None and o.requires_grad]
        if not used:
            return
        wanted = [i for i, need in enumerate(needs) if need]
        found = torch.autograd.grad(
            [o for o, _ in used],
            [aliases[i] for i in wanted],
            [g for _, g in used],
            create_graph=create_graph,
            allow_unused=True,
        )
    for i, grad in zip(wanted, found, strict=True):
        grads[i] = grad
