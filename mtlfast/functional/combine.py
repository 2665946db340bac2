"""Combining per-task losses into one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mtlfast.functional.checks import (
    check_choice,
    check_real,
    check_tensor,
    check_vector,
    fail,
)


def weighted_sum(
    losses: Tensor, weights: Tensor, *, normalize: Literal["sum", "mean"] | None = None
) -> Tensor:
    """Returns the weighted sum of per-task losses.

    With the losses L_t and the weights w_t of the tasks,

        L = sum_t w_t L_t

    Args:
        losses: (T,) floating.
        weights: (T,), on the device of `losses`.
        normalize: None takes the weights as they are; "sum" divides them by their sum, "mean" by
            their mean, so that they sum to 1 or to T.

    Returns:
        A scalar. A task of weight 0 adds exactly 0, even where its loss is inf or NaN.

    Raises:
        ValueError, TypeError: where the shapes differ, `normalize` is unknown or no tensors came.

    Example:
        >>> weighted_sum(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), normalize="sum")
        tensor(2.)
    """
    check_tensor("losses", losses, None, "")
    check_tensor("weights", weights, losses.device, "losses")
    for name, tensor in (("losses", losses), ("weights", weights)):
        check_real(name, tensor)
    if losses.dim() != 1:
        fail(f"losses must have shape (T,), one per task; got {tuple(losses.shape)}.")
    check_vector("weights", weights, len(losses), "task")
    if normalize is not None:
        check_choice("normalize", normalize, ("sum", "mean"))
    if normalize is not None:
        weights = weights / (weights.sum() if normalize == "sum" else weights.mean())
    unseen = (weights == 0) & ~losses.isfinite()
    return (weights * torch.where(unseen, 0, losses)).sum()
