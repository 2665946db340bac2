"""Combining per-task losses into one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mtlfast.functional.checks import (
    FLOATING,
    check_choice,
    check_real,
    check_tensor,
    check_vector,
    fail,
)

__all__ = ["weighted_sum"]


def weighted_sum(
    losses: Tensor, weights: Tensor, *, normalize: Literal["sum", "mean"] | None = None
) -> Tensor:
    """Returns the weighted sum of per-task losses.

    With the losses L_t and the weights w_t of the tasks,

        L = sum_t w_t L_t

    Args:
        losses: (T,) floating.
        weights: (T,) real, on the device of `losses`.
        normalize: None takes the weights as they are; "sum" divides them by their sum, "mean" by
            their mean, so that they sum to 1 or to T.

    Returns:
        A scalar. A task of weight 0 adds exactly 0, even where its loss is inf or NaN.

    Raises:
        TypeError, ValueError: where shapes, dtypes or devices differ or `normalize` is unknown.

    Example:
        >>> weighted_sum(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), normalize="sum")
        tensor(2.)
    """
    check_losses(losses)
    check_tensor("weights", weights, losses.device, "losses")
    check_real("weights", weights)
    check_vector("weights", weights, len(losses), "task")
    check_normalize(normalize)
    if normalize is not None:
        weights = weights.to(torch.promote_types(weights.dtype, losses.dtype))
        weights = weights / (weights.sum() if normalize == "sum" else weights.mean())
    unseen = (weights == 0) & ~losses.isfinite()
    return (weights * torch.where(unseen, 0, losses)).sum()


def check_losses(losses: Tensor) -> None:
    """Raises TypeError or ValueError unless it is a dense floating tensor (T,)."""
    check_tensor("losses", losses, None, "losses")
    if losses.dtype not in FLOATING:
        wanted = "float32, float64, bfloat16 or float16"
        fail(f"losses must be {wanted}; got {losses.dtype}.", TypeError)
    if losses.dim() != 1:
        fail(f"losses must have shape (T,), one per task; got {tuple(losses.shape)}.")


def check_normalize(normalize: str | None) -> None:
    """Raises ValueError unless weights are scaled in a way that there is."""
    if normalize is not None:
        check_choice("normalize", normalize, ("sum", "mean"))
