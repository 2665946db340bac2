"""Weights that are learned with the model, as each task's noise."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from mtlfast.functional.checks import check_whole
from mtlfast.weighting.base import Weighting

__all__ = ["Uncertainty"]

# exp(20) is a weight no sane loss needs; float32 holds it times a loss of 1e29.
LEAST_LOG_VARIANCE = -20.0


class Uncertainty(Weighting):
    """Weights learned as the noise of each task.

    With s_t = log sigma_t^2 a parameter, 0 at first, the combined loss is the sum over the tasks
    that have labels of:

        exp(-s_t) / 2 L_t + s_t / 2

    It is least at s_t = log L_t, where each task's weight is 1 / (2 L_t). A task without labels is
    left out with its s_t / 2, so s_t gets gradient 0 (an optimizer with momentum still moves it).
    Below s_t = -20 the exponential goes on as its tangent, so that loss and gradient stay finite
    and lead back.

    The optimizer must be given the parameter, without weight decay, which would draw each s_t to
    0: ``{"params": weighting.parameters(), "weight_decay": 0.0}``.

    Args:
        num_tasks: T.

    Attributes:
        log_variance: (T,) parameter, s; float32 in a model that is cast to a half type, too.
        weights: (T,) what the losses of the last step were multiplied by, 1/2 at first.

    Raises:
        TypeError: for a number that is not whole.
        ValueError: for num_tasks below 1.

    Source: A. Kendall, Y. Gal, R. Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses
    for Scene Geometry and Semantics, CVPR 2018, section 3.2.

    Example:
        >>> uncertainty = Uncertainty(2)
        >>> uncertainty(torch.tensor([1.0, 3.0]))
        tensor(2., grad_fn=<SumBackward0>)
    """

    linear = False

    def __init__(self, num_tasks: int) -> None:
        check_whole("num_tasks", num_tasks, 1)
        super().__init__(torch.full((num_tasks,), 0.5))
        self.log_variance = nn.Parameter(torch.zeros_like(self.weights))

    @classmethod
    def for_run(cls, num_tasks: int, steps: int, epochs: int, seed: int = 0) -> Self:
        """Returns the one of so many tasks; it knows nothing of a run's length or seed."""
        return cls(num_tasks)

    def combine(self, losses: Tensor, counts: Tensor | None = None) -> Tensor:
        """Returns the sum of exp(-s_t) / 2 L_t + s_t / 2 over the tasks that have labels."""
        self._check(losses, counts)
        dtype = losses.dtype
        variances: Tensor = self.log_variance
        if counts is not None:
            labelled = counts > 0
            losses, variances = (torch.where(labelled, x, 0) for x in (losses, variances))
        return (_weights(variances) * losses + variances / 2).sum().to(dtype)

    @torch.no_grad()
    def advance(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Shows in ``weights`` what the step was combined with."""
        self._check(losses, counts)
        self.weights.copy_(_weights(self.log_variance))


def _weights(variances: Tensor) -> Tensor:
    """Returns exp(-s) / 2, (T,), continued by its tangent below the least s."""
    s = variances.clamp(min=LEAST_LOG_VARIANCE)
    return torch.exp(-s) * (1 + (s - variances)) / 2
