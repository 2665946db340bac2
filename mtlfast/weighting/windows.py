"""Weights from how mean losses change from one window of batches to the next."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from mtlfast.functional.checks import check_scalar, check_whole, fail
from mtlfast.weighting.base import Weighting

__all__ = ["DynamicWeightAverage", "ValidationLossTrend"]

# How often a run renews its weights; the first window renews none.
RENEWALS = 25


class Windowed(Weighting):
    """Weights that are renewed from the means of a window and the one before, each time one closes.

    Buffers: ``window`` (2, T) holds the sums of the open window, of losses times counts and of
    counts; ``previous`` (T,) the means of the one before, NaN where there are none;
    ``observations`` the number of batches in the open window. All is computed for every batch and
    masked where no window closes: only so the host need not know whether one does.

    Args:
        num_tasks: T.
        interval: batches per window.
    """

    window: Tensor
    previous: Tensor
    observations: Tensor

    def __init__(self, num_tasks: int, interval: int) -> None:
        check_whole("num_tasks", num_tasks, 1)
        check_whole("interval", interval, 1)
        super().__init__(torch.ones(num_tasks))
        self.interval = int(interval)
        self.register_buffer("window", torch.zeros(2, num_tasks))
        self.register_buffer("previous", torch.full((num_tasks,), torch.nan))
        self.register_buffer("observations", torch.zeros((), dtype=torch.int64))

    @classmethod
    def for_run(cls, num_tasks: int, steps: int, epochs: int, seed: int = 0) -> Self:
        """Returns the one whose windows renew the weights 25 times in a run of so many steps."""
        return cls(num_tasks, max(1, steps // (RENEWALS + 1)))

    def extra_repr(self) -> str:
        """Returns the settings, as ``repr(module)`` and a run's report show them."""
        return f"{super().extra_repr()}, interval={self.interval}"

    def _take(self, losses: Tensor, counts: Tensor | None) -> None:
        """Adds a batch to the window; where that closes it, renews the weights."""
        # Nearly all time is dispatch: 45 us for 40 tasks, and 49 under no_grad, which still goes
        # through autograd. The compiler cannot trace views in inference mode.
        with torch.inference_mode(not torch.compiler.is_compiling()):
            window, weights, previous = self.window, self.weights, self.previous
            window.add_(self._totals(losses, counts))
            closing = self.observations.add_(1).remainder_(self.interval).logical_not()
            current = torch.div(*window.unbind())
            renewed = self._renewed(current, previous, weights)
            ready = renewed.eq(renewed).logical_and_(closing)
            torch.where(ready, renewed, weights, out=weights)
            torch.where(closing, current, previous, out=previous)
            window.masked_fill_(closing, 0)

    def _renewed(self, current: Tensor, previous: Tensor, old: Tensor) -> Tensor:
        """Returns (T,) weights, finite or, where the old ones stay, NaN.

        Args:
            current: (T,) means of the window, NaN where a task had no labels in it.
            previous: (T,) means of the window before.
            old: (T,) weights so far.
        """
        raise NotImplementedError


class ValidationLossTrend(Windowed):
    """Weights in proportion to how much each task's validation loss still moves.

    With pre and cur the means of a task's validation loss over two successive windows of
    ``interval`` observations, each closing window from the second on sets:

        w_j = T |cur_j - pre_j| / sum_i |cur_i - pre_i|

    which is the published rule, (trend / mean trend) (cur / mean cur) scaled to mean 1 with
    trend = |cur - pre| / cur, where cur cancels. Then, in this order: momentum,
    w <- momentum w_old + (1 - momentum) w; clamp to [min_weight, max_weight]; scaling to mean 1,
    which may move a clamped weight slightly past its bound. Where no task moved, all keep their
    weights. A task without observations, or with a non-finite one, in either window keeps its
    weight, and the others share what it leaves. Labelled counts weight the window means. In a
    process group each observation's sums and counts are added over the processes before any
    quotient, so every process must call ``observe`` equally often, and all hold the same weights.

    Args:
        num_tasks: T.
        interval: observations per window, K.
        momentum: share of the old weights in [0, 1).
        min_weight: lower bound, at most 1.
        max_weight: upper bound, at least 1, or None.

    Raises:
        ValueError: for an argument outside these ranges.

    Source: K. He et al., Adaptively Weighted Multi-task Deep Network for Person Attribute
    Classification, ACM MM 2017.

    Example:
        >>> trend = ValidationLossTrend(3, interval=1)
        >>> trend.observe(torch.tensor([1.0, 2.0, 4.0]))
        >>> trend.observe(torch.tensor([0.5, 1.0, 2.0]))
        >>> trend.weights
        tensor([0.4286, 0.8571, 1.7143])
    """

    observes = True

    def __init__(
        self,
        num_tasks: int,
        interval: int = 100,
        *,
        momentum: float = 0.0,
        min_weight: float = 0.0,
        max_weight: float | None = None,
    ) -> None:
        super().__init__(num_tasks, interval)
        check_scalar("momentum", momentum)
        check_scalar("min_weight", min_weight)
        if max_weight is not None:
            check_scalar("max_weight", max_weight)
        if not 0 <= momentum < 1:
            fail(f"momentum must lie in [0, 1); got {momentum}.")
        if not 0 <= min_weight <= 1:
            fail(f"min_weight must lie in [0, 1], as weights have mean 1; got {min_weight}.")
        if max_weight is not None and not max_weight >= 1:
            fail(f"max_weight must be at least 1, as weights have mean 1; got {max_weight}.")
        self.momentum = momentum
        self.min_weight = min_weight
        self.max_weight = max_weight

    def extra_repr(self) -> str:
        """Returns the settings, as ``repr(module)`` and a run's report show them."""
        return (
            f"{super().extra_repr()}, momentum={self.momentum}, "
            f"min_weight={self.min_weight}, max_weight={self.max_weight}"
        )

    def observe(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Takes one batch's unweighted losses; each ``interval``-th call renews the weights.

        Args:
            losses: (T,) mean validation losses; gradients are ignored.
            counts: (T,) labelled samples behind each mean; 0 leaves a task out. None: all 1.

        Raises:
            TypeError, ValueError: where losses or counts are not such tensors.
        """
        self._take(losses, counts)

    def _renewed(self, current: Tensor, previous: Tensor, old: Tensor) -> Tensor:
        change = (current - previous).abs_()
        change = _if_finite(change, change)
        share = _if_finite(old, change).nansum()
        total = change.nansum()
        # Where no task moved, 0 / 0 is NaN too.
        weights = change.div_(total).mul_(_if_finite(share, total))
        if self.momentum:
            weights = torch.lerp(weights, old, self.momentum)
        if self.min_weight or self.max_weight is not None:
            weights = weights.clamp(self.min_weight, self.max_weight)
            weights = weights / weights.nansum() * share
        return weights


class DynamicWeightAverage(Windowed):
    """Weights that favour the tasks whose training loss falls slowest.

    With L(k) the mean of a task's training loss over window number k of ``interval`` steps, the
    weights in window k are:

        w_t = T exp(r_t / temperature) / sum_i exp(r_i / temperature)
        r_t = L_t(k - 1) / L_t(k - 2)

    and 1 in the first two windows. The paper's window is an epoch. A task without labels in either
    window, or with a mean that is not finite or not positive, keeps its weight, and the others
    share what it leaves. Labelled counts weight the window means. In a process group each step's
    sums and counts are added over the processes before any quotient.

    Args:
        num_tasks: T.
        interval: optimizer steps per window.
        temperature: softness of the weights: large, and all are close to 1.

    Raises:
        ValueError: for num_tasks or interval below 1, or a temperature that is not positive and
            finite.

    Source: S. Liu, E. Johns, A. J. Davison, End-to-End Multi-Task Learning with Attention, CVPR
    2019, section 3.3.

    Example:
        >>> average = DynamicWeightAverage(2, interval=1)
        >>> for losses in ([1.0, 1.0], [0.5, 1.0]):
        ...     total = average(torch.tensor(losses))
        >>> average.weights
        tensor([0.8756, 1.1244])
    """

    def __init__(self, num_tasks: int, interval: int, *, temperature: float = 2.0) -> None:
        super().__init__(num_tasks, interval)
        check_scalar("temperature", temperature)
        if not 0 < temperature < math.inf:
            fail(f"temperature must be positive and finite; got {temperature}.")
        self.temperature = temperature

    @classmethod
    def for_run(cls, num_tasks: int, steps: int, epochs: int, seed: int = 0) -> Self:
        """Returns the one whose window is an epoch, as in the paper, or renews weights 25 times."""
        average = super().for_run(num_tasks, steps, epochs, seed)
        average.interval = min(average.interval, max(1, steps // epochs))
        return average

    def extra_repr(self) -> str:
        """Returns the settings, as ``repr(module)`` and a run's report show them."""
        return f"{super().extra_repr()}, temperature={self.temperature}"

    def advance(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Takes one step's unweighted training losses; each ``interval``-th renews the weights."""
        self._take(losses, counts)

    def _renewed(self, current: Tensor, previous: Tensor, old: Tensor) -> Tensor:
        ratios = current / previous / self.temperature
        # An infinite mean makes a ratio infinite, 0 or NaN; two negative ones a positive ratio.
        kept = ~((ratios > 0) & (ratios < math.inf) & (previous > 0))
        share = old.masked_fill(kept, 0).sum()
        weights = torch.softmax(ratios.masked_fill(kept, -math.inf), 0) * share
        return weights.masked_fill(kept, math.nan)


def _if_finite(x: Tensor, y: Tensor) -> Tensor:
    """Returns x where y is finite, else NaN: in one operation, which isfinite() is not."""
    return torch.lerp(x, x, y)  # x + y (x - x)
