"""Task-weight updaters: modules that turn T task losses into one scalar and remember how in
buffers.

They work in anyone's loop, and never ask the device for a number::

    weighting = ValidationLossTrend(num_tasks=40, interval=100)
    weighting.observe(validation_losses, validation_counts)      # unweighted, without gradient
    weighting(training_losses, training_counts).backward()
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

import mtlfast.functional as MF

__all__ = ["Fixed", "ValidationLossTrend", "Weighting"]


class Weighting(nn.Module):
    """The contract of a weighting: a (T,) buffer ``weights``, ``forward`` and ``observe``.

    Attributes:
        weights: (T,) current weights.
        observes: whether ``observe`` must be fed; the trainer then asks for weight data.
        linear: whether ``forward`` is linear in the losses, which gradient accumulation needs.
    """

    weights: Tensor
    observes = False
    linear = True

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, losses: Tensor, counts: Tensor | None = None) -> Tensor:
        """Returns sum_t weights[t] losses[t] over the tasks that have labels.

        Args:
            losses: (T,) floating, one loss per task, with gradient.
            counts: (T,) labelled samples behind each loss. A task with count 0 is left out,
                whatever its loss holds. None: every task has labels.

        Returns:
            A scalar of the losses' dtype.

        Raises:
            ValueError: where losses or counts are not (T,).
        """
        self._check("losses", losses)
        if counts is not None:
            self._check("counts", counts)
            losses = torch.where(counts > 0, losses, 0)
        # A copy, so that observe() between forward and backward does not disturb the graph.
        return MF.weighted_sum(losses, self.weights.to(losses.dtype, copy=True))

    def observe(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Takes one batch of weight data; a weighting that learns nothing from it only checks it.

        Args:
            losses: (T,) unweighted losses on data apart from the training batch.
            counts: (T,) labelled samples behind each; None counts every task once.
        """
        self._check("losses", losses)
        if counts is not None:
            self._check("counts", counts)

    def _check(self, name: str, value: Tensor) -> None:
        if value.shape != self.weights.shape:
            want = tuple(self.weights.shape)
            raise ValueError(
                f"{name} must have shape {want}, one per task; got {tuple(value.shape)}."
            )


class Fixed(Weighting):
    """Weights that stay as given: sum_t w_t L_t.

    Args:
        weights: T numbers, none negative and not all zero.
        normalize: ``None`` takes them as they are, ``"sum"`` scales them to sum 1 (the convention
            of Caffe's ``loss_weight`` 0.2 for each of five tasks), ``"mean"`` to mean 1.

    Raises:
        ValueError: for no, negative, non-finite or all-zero weights and an unknown ``normalize``.

    Example:
        >>> Fixed([1.0, 3.0], normalize="sum")(torch.tensor([4.0, 8.0]))
        tensor(7.)
    """

    def __init__(self, weights: Iterable[float], normalize: str | None = None) -> None:
        numbers = [float(weight) for weight in weights]
        if not all(0 <= number < math.inf for number in numbers) or not sum(numbers) > 0:
            raise ValueError(f"weights must be finite, not negative and not all 0; got {numbers}.")
        if normalize not in (None, "sum", "mean"):
            raise ValueError(f"normalize must be None, 'sum' or 'mean'; got {normalize!r}.")
        total = {None: 1.0, "sum": sum(numbers), "mean": sum(numbers) / len(numbers)}[normalize]
        super().__init__(torch.tensor([number / total for number in numbers]))

    def extra_repr(self) -> str:
        """Returns the weights, as ``repr(module)`` and a run's report show them."""
        return ", ".join(f"{weight:g}" for weight in self.weights)


class ValidationLossTrend(Weighting):
    """Weights in proportion to how much each task's validation loss still moves.

    With pre and cur the means of a task's validation loss over two successive windows of
    ``interval`` observations, each closing window from the second on sets::

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
    window: Tensor
    previous: Tensor
    observations: Tensor

    def __init__(
        self,
        num_tasks: int,
        interval: int = 100,
        *,
        momentum: float = 0.0,
        min_weight: float = 0.0,
        max_weight: float | None = None,
    ) -> None:
        for name, value in (("num_tasks", num_tasks), ("interval", interval)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1); got {momentum}.")
        if not 0 <= min_weight <= 1:
            raise ValueError(
                f"min_weight must lie in [0, 1], as weights have mean 1; got {min_weight}."
            )
        if max_weight is not None and not max_weight >= 1:
            raise ValueError(
                f"max_weight must be at least 1, as weights have mean 1; got {max_weight}."
            )
        super().__init__(torch.ones(num_tasks))
        self.interval = interval
        self.momentum = momentum
        self.min_weight = min_weight
        self.max_weight = max_weight
        self.register_buffer("window", torch.zeros(2, num_tasks))
        self.register_buffer("previous", torch.full((num_tasks,), torch.nan))
        self.register_buffer("observations", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """Returns the settings, as ``repr(module)`` and a run's report show them."""
        return (
            f"num_tasks={len(self.weights)}, interval={self.interval}, momentum={self.momentum}, "
            f"min_weight={self.min_weight}, max_weight={self.max_weight}"
        )

    @torch.no_grad()
    def observe(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Takes one batch's unweighted losses; each ``interval``-th call renews the weights.

        Args:
            losses: (T,) mean validation losses; gradients are ignored.
            counts: (T,) labelled samples behind each mean; 0 leaves a task out. None: all 1.

        Raises:
            ValueError: where losses or counts are not (T,).
        """
        super().observe(losses, counts)
        window, weights, previous = self.window, self.weights, self.previous
        losses = losses.to(window)
        counts = torch.ones_like(losses) if counts is None else counts.to(window)
        batch = torch.stack((losses * counts, counts)).masked_fill_(counts == 0, 0)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(batch)
        window.add_(batch)
        closing = self.observations.add_(1) % self.interval == 0
        current = window[0] / window[1]
        torch.where(closing, self._renewed(current, previous, weights), weights, out=weights)
        torch.where(closing, current, previous, out=previous)
        window.masked_fill_(closing, 0)

    def _renewed(self, current: Tensor, previous: Tensor, old: Tensor) -> Tensor:
        """Returns the (T,) weights after a window.

        Args:
            current: (T,) means of the window, NaN where a task was not observed.
            previous: (T,) means of the window before.
            old: (T,) weights so far.
        """
        change = (current - previous).abs()
        # True for NaN as well, and for changes whose sum would overflow.
        kept = ~(change < torch.finfo(change.dtype).max / len(change))
        share = old.masked_fill(kept, 0).sum()
        change = change.masked_fill(kept, 0)
        weights = change / change.sum() * share
        if self.momentum:
            weights = torch.lerp(weights, old, self.momentum)
        if self.min_weight or self.max_weight is not None:
            weights = weights.clamp(self.min_weight, self.max_weight)
            weights = weights * (share / weights.masked_fill(kept, 0).sum())
        # Where no task moved, 0 / 0 is NaN, which no comparison lets through.
        return torch.where((weights < math.inf) > kept, weights, old)
