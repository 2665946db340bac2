"""One autograd.Function per family: what is saved, and which gradient comes from where."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mtlfast.ops import reference

_LOGITS, _TASK_WEIGHT = 0, 6


class Pointwise(torch.autograd.Function):
    """Runs a backend's forward and backward op; differentiates the reference where those don't reach.

    The backward op recomputes from logits and targets, so nothing of size (N, T) is saved. The gradient
    of task_weight follows from the saved task losses; those of target, weight, pos_weight and
    sample_weight, and every gradient under ``create_graph``, come from the reference.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        sample_weight: Tensor | None,
        task_weight: Tensor | None,
        loss: str,
        params: Sequence[float],
        reduction: str,
        ops: ModuleType,
        return_tasks: bool,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        tensors = (logits, target, mask, weight, pos_weight, sample_weight, task_weight)
        ctx.settings = (loss, params, reduction)
        ctx.ops = ops
        ctx.set_materialize_grads(False)
        value, task_loss, count, denominator = ops.pointwise_forward(*tensors, *ctx.settings)
        ctx.save_for_backward(*tensors, task_loss, count, denominator)
        if not return_tasks:
            return value
        ctx.mark_non_differentiable(count)
        return value, task_loss, count

    @staticmethod
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_task_loss: Tensor | None = None, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *tensors, task_loss, count, denominator = ctx.saved_tensors
        grads: list[Tensor | None] = [None] * len(tensors)
        needed = [i for i in range(len(tensors)) if ctx.needs_input_grad[i]]
        if grad_loss is None and grad_task_loss is None:
            needed = []
        if grad_task_loss is not None:
            grad_task_loss = grad_task_loss.contiguous()
        if not torch.is_grad_enabled():
            if _LOGITS in needed:
                needed.remove(_LOGITS)
                grads[_LOGITS] = ctx.ops.pointwise_backward(
                    grad_loss, grad_task_loss, *tensors, count, denominator, *ctx.settings
                )
            if _TASK_WEIGHT in needed and ctx.settings[2] != "none":
                needed.remove(_TASK_WEIGHT)
                if grad_loss is not None:
                    grads[_TASK_WEIGHT] = grad_loss * task_loss * count / denominator
        if needed:
            upstream = (grad_loss, grad_task_loss)
            for i, grad in zip(
                needed, _reference_gradients(tensors, needed, upstream, ctx.settings), strict=True
            ):
                grads[i] = grad
        return (*grads, None, None, None, None, None)


def _reference_gradients(
    tensors: Sequence[Tensor | None],
    needed: Sequence[int],
    upstream: Sequence[Tensor | None],
    settings: tuple[str, Sequence[float], str],
) -> tuple[Tensor | None, ...]:
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, so that an input computed from another one is not counted twice.
        aliases = [
            t.view_as(t) if i in needed and t is not None else t for i, t in enumerate(tensors)
        ]
        outputs = reference.pointwise(*aliases, *settings)[:2]
        given = [(o, g) for o, g in zip(outputs, upstream, strict=True) if g is not None]
        return torch.autograd.grad(
            [o for o, _ in given],
            [aliases[i] for i in needed],
            [g for _, g in given],
            create_graph=create_graph,
            allow_unused=True,
        )
