"""One autograd.Function per family: what is saved, and which gradient comes from where."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mtlfast.ops import reference

# Positions of the operands after logits and target, in the order of the ops' schema.
OPERANDS = ("mask", "weight", "pos_weight", "sample_weight", "task_weight")
_TASK_WEIGHT = OPERANDS.index("task_weight")
Settings = tuple[str, Sequence[float], str]


def _in_places(slots: Sequence[int], given: Sequence[Tensor]) -> list[Tensor | None]:
    """Returns the five operands, None where not given."""
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
        elif not torch.is_grad_enabled():
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
            if slots and slots[-1] == _TASK_WEIGHT and needs[-1] and settings[2] != "none":
                needs[-1] = False
                if grad_loss is not None:
                    # In float64: three roundings more would break the accuracy rule.
                    wide = grad_loss * task_loss.double() * count / denominator
                    grads[-1] = wide.to(task_loss.dtype)
        if any(needs):
            _fill_from_reference(grads, needs, upstream, (logits, target, *given), slots, settings)
        return (*grads[:2], None, None, None, None, *grads[2:])


def _fill_from_reference(
    grads: list[Tensor | None],
    needs: Sequence[bool],
    upstream: Sequence[Tensor | None],
    tensors: Sequence[Tensor],
    slots: Sequence[int],
    settings: Settings,
) -> None:
    """Fills in the gradients that `needs` asks for, differentiably under ``create_graph``."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, so that an input computed from another one is not counted twice.
        aliases = [t.view_as(t) if need else t for t, need in zip(tensors, needs, strict=True)]
        arguments: Any = (*aliases[:2], *_in_places(slots, aliases[2:]), *settings)
        outputs = reference.pointwise(*arguments)[:2]
        pairs = zip(outputs, upstream, strict=True)
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
