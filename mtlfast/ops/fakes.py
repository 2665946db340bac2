"""What the ops of the fused backends return for tensors without data: the same for all of them.

torch.compile and torch.export call these instead of the ops, and so treat those as opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlfast.ops.catalogue import NONE, compute_dtype


def _one_device(*arguments: Any) -> None:
    """Refuses a mixture of meta tensors and others, which the dispatcher lets through."""
    devices = {str(t.device) for t in arguments if isinstance(t, Tensor)}
    if len(devices) > 1:
        raise RuntimeError(f"mtlfast: all tensors must be on one device; got {sorted(devices)}.")


def pointwise_forward(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns loss, task_loss, count and denominator."""
    _one_device(logits, *rest)
    compute, tasks = compute_dtype(logits.dtype), logits.shape[1]
    return (
        torch.empty_like(logits) if rest[-1] == NONE else logits.new_empty((), dtype=compute),
        logits.new_empty(tasks, dtype=compute),
        logits.new_empty(tasks, dtype=torch.int64),
        logits.new_empty(tasks, dtype=compute),
    )


def pointwise_backward(
    grad_loss: Tensor | None, grad_task_loss: Tensor | None, logits: Tensor, *rest: Any
) -> Tensor:
    """Returns the gradient of the logits."""
    _one_device(grad_loss, grad_task_loss, logits, *rest)
    return torch.empty_like(logits)


def rows_forward(rows: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    """Returns loss and denominator."""
    _one_device(*rows, *rest)
    first, none, compute = rows[0], rest[-1] == NONE, compute_dtype(rows[0].dtype)
    return (
        first.new_empty(first.shape[:1] if none else (), dtype=first.dtype if none else compute),
        first.new_empty((), dtype=compute),
    )


def rows_backward(grad_loss: Tensor, rows: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    """Returns the gradients of the rows that are wanted."""
    _one_device(grad_loss, *rows, *rest)
    return [rows[w].new_empty(rows[w].shape) for w in rest[-1]]


_OF: dict[str, tuple[Callable[..., Any], ...]] = {
    "pointwise": (pointwise_forward, pointwise_backward),
    "rows": (rows_forward, rows_backward),
    "inbatch": (),  # its ops are called inside another, which has a fake of its own
}


def register(namespace: str, family: str) -> None:
    """Registers the fakes of a family's ops, once they are defined in torch.ops.`namespace`."""
    for fake in _OF[family]:
        torch.library.register_fake(f"{namespace}::{fake.__name__}", fake)
