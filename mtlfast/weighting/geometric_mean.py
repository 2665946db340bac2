"""The geometric mean of the losses, in which no task's scale matters."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from mtlfast.functional.checks import check_whole
from mtlfast.weighting.base import Weighting

__all__ = ["GeometricMean"]


class GeometricMean(Weighting):
    """The geometric mean of the losses.

    Over the n tasks that have labels,

        L = (prod_t L_t)^(1 / n),   dL / dL_t = L / (n L_t)

    so that multiplying one task's loss by a constant leaves the balance as it is. Losses must be
    positive: one below the smallest normal number of its dtype, 0 included, counts as that number
    and gets no gradient. Without any labels the result and its gradient are 0.

    Args:
        num_tasks: T.

    Attributes:
        weights: (T,) dL / dL_t of the last step, from the losses of all processes, 1 / T at first.
            A task without labels, or with a loss that is not finite, keeps what it had.

    Raises:
        TypeError: for a number that is not whole.
        ValueError: for num_tasks below 1.

    Source: S. Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
    Strategy for Multi-Task Learning, CVPR Workshops 2019, section 3.2.

    Example:
        >>> mean = GeometricMean(2)
        >>> mean(torch.tensor([2.0, 8.0])), mean.weights
        (tensor(4.), tensor([1.0000, 0.2500]))
    """

    linear = False

    def __init__(self, num_tasks: int) -> None:
        check_whole("num_tasks", num_tasks, 1)
        super().__init__(torch.full((num_tasks,), 1 / num_tasks))

    @classmethod
    def for_run(cls, num_tasks: int, steps: int, epochs: int, seed: int = 0) -> Self:
        """Returns the one of so many tasks; it knows nothing of a run's length or seed."""
        return cls(num_tasks)

    def combine(self, losses: Tensor, counts: Tensor | None = None) -> Tensor:
        """Returns the geometric mean over the tasks that have labels."""
        self._check(losses, counts)
        if counts is None:
            return _log(losses).mean().exp().to(losses.dtype)
        labelled = counts > 0
        number = labelled.sum()
        logs = _log(torch.where(labelled, losses, 1))
        mean = (logs.sum() / number.clamp(min=1)).exp()
        return torch.where(number > 0, mean, 0).to(losses.dtype)

    @torch.no_grad()
    def advance(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Shows in ``weights`` how the step's losses were weighted."""
        sums, counts = self._totals(losses, counts)
        means = sums / counts
        usable = means.isfinite()
        number = usable.sum()
        logs = _log(torch.where(usable, means, 1))
        weights = (logs.sum() / number - logs).exp() / number
        weights = weights.clamp(max=torch.finfo(self.weights.dtype).max)
        torch.where(usable, weights.to(self.weights), self.weights, out=self.weights)


def _log(losses: Tensor) -> Tensor:
    """Returns (T,) logarithms in float32 at least, of no less than the dtype's tiny."""
    losses = losses.clamp(min=torch.finfo(losses.dtype).tiny)
    return losses.to(torch.promote_types(losses.dtype, torch.float32)).log()
