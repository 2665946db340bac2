"""The contrastive margin that follows the data instead of being trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtlfast.functional.checks import (
    check_real,
    check_scalar,
    check_tensor,
    check_vector,
    check_whole,
    fail,
)
from mtlfast.modules.memory import Memory

__all__ = ["MarginUpdater"]


class MarginUpdater(Memory):
    """A contrastive margin that is reset to the distance threshold with the least errors.

    After every `interval` pairs the margin becomes the threshold t >= 0 that best tells same pairs
    from different ones over the last `window` pairs, the one with the least:

        errors(t) = #{same pairs with distance > t} + #{different pairs with distance <= t}

    but at least `min_margin`. Errors only change at distances that occur, so t is halfway between
    two neighbouring ones; 0 stands below the smallest, and beyond the largest t is the largest.
    Where several such t are equally good it is the middle one, and of two middle ones the smaller.
    The margin stays where all pairs in the window are of one kind. How the pairs are cut into
    batches makes no difference.

    Errors are counted, not weighted: where nearly all pairs differ, calling every pair different
    may be best, with a margin below all distances. So feed about as many pairs of each kind. Pairs
    of several processes count together, and all processes keep the same margin, if each observes
    ``gather_embeddings(distances)`` and ``gather_embeddings(same)``.

    Use it beside the loss, before the backward or after it:

        loss = MF.contrastive_loss(x1, x2, same, margin=updater(len(x1)))
        updater.observe(F.pairwise_distance(x1, x2), same)

    Everything is in buffers, which stay float32 or float64 where the module, or a model around it,
    is cast to a half type, and neither method asks the device for a number. One call of `observe`
    sorts the window ceil(n / interval) times.

    Args:
        margin: the margin until the first reset.
        window: pairs to search, at least 2.
        interval: pairs between resets; None: as many as the window, as in the paper.
        warmup: no reset until more than so many pairs were observed.
        min_margin: lower bound, above 0. A contrastive loss that dominates draws all distances and
            with them the margin to 0; this stops it.

    Attributes:
        margin: the current margin, a 0-dimensional buffer.

    Raises:
        TypeError, ValueError: for an argument of another kind or outside these ranges.

    Source: Y. Sun et al., Deep Learning Face Representation by Joint Identification-Verification,
    NIPS 2014, section 2.

    Example:
        >>> updater = MarginUpdater(margin=1.0, window=4)
        >>> updater.observe(torch.tensor([0.5, 1.5, 0.75, 2.0]), torch.tensor([1, 0, 1, 0]))
        >>> updater.margin
        tensor(1.1250)
    """

    margin: Tensor
    distances: Tensor
    same: Tensor
    observed: Tensor

    def __init__(
        self,
        margin: float = 1.0,
        window: int = 4096,
        interval: int | None = None,
        *,
        warmup: int = 0,
        min_margin: float = 0.1,
    ) -> None:
        """Takes what the class describes."""
        super().__init__()
        interval = window if interval is None else interval
        check_whole("window", window, 2)
        check_whole("interval", interval, 1)
        check_whole("warmup", warmup, 0)
        check_scalar("min_margin", min_margin)
        check_scalar("margin", margin)
        if not 0 < min_margin < math.inf:
            fail(f"min_margin must be above 0, or the margin may collapse; got {min_margin}.")
        if not min_margin <= margin < math.inf:
            fail(f"margin must be finite and at least min_margin, {min_margin}; got {margin}.")
        self.interval = interval
        self.warmup = warmup
        self.min_margin = min_margin
        self.register_buffer("margin", torch.tensor(float(margin)))
        # Pair number i, from 1, is in slot (i - 1) % window; a slot without one holds infinity.
        self.register_buffer("distances", torch.full((window,), torch.inf))
        self.register_buffer("same", torch.zeros(window, dtype=torch.bool))
        self.register_buffer("observed", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """Returns the settings, as ``repr(module)`` and a run's report show them."""
        return (
            f"window={len(self.distances)}, interval={self.interval}, warmup={self.warmup}, "
            f"min_margin={self.min_margin}"
        )

    def forward(self, pairs: int) -> Tensor:
        """Returns the current margin for each pair, (pairs,), as contrastive losses take it.

        It is a copy, so `observe` may come between forward and backward of the loss.
        """
        return self.margin.clone().expand(check_whole("pairs", pairs, 0))

    @torch.no_grad()
    def observe(self, distances: Tensor, same: Tensor) -> None:
        """Takes a batch of pairs, and resets the margin as often as an interval ends in it.

        Args:
            distances: (n,) of the pairs, none negative, in the distance that the loss uses;
                gradients are ignored. A pair whose distance is not finite is left out.
            same: (n,) bool, or a number where > 0 means same.

        Raises:
            TypeError, ValueError: where shapes, dtypes or devices are others.
        """
        self._check(distances, same)
        if len(distances) == 0:
            return
        distances, same = distances.to(self.distances.dtype), same > 0
        counts = distances.isfinite().cumsum(0)
        last = self.observed + counts[-1]
        end = self.observed - self.observed % self.interval
        margin = self.margin
        for _ in range(-(-len(distances) // self.interval)):
            end = end + self.interval
            threshold, found = _best_threshold(*self._window(distances, same, counts, end))
            found &= (end <= last) & (end > self.warmup)
            margin = torch.where(found, threshold.clamp(min=self.min_margin), margin)
        window = self._window(distances, same, counts, last)
        for buffer, value in zip(
            (self.distances, self.same, self.observed, self.margin),
            (*window, last, margin),
            strict=True,
        ):
            buffer.copy_(value)

    def _check(self, distances: Tensor, same: Tensor) -> None:
        check_tensor("distances", distances, None, "distances")
        if distances.device != self.margin.device:
            fail(
                f"distances must be on the device of the updater, {self.margin.device}; "
                f"got {distances.device}: call updater.to({str(distances.device)!r}) first."
            )
        check_tensor("same", same, distances.device, "distances")
        check_real("distances", distances)
        check_real("same", same)
        if distances.dim() != 1:
            fail(f"distances must have shape (n,), one per pair; got {tuple(distances.shape)}.")
        check_vector("same", same, len(distances), "pair")

    def _window(
        self, distances: Tensor, same: Tensor, counts: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the window, (window,) twice, as it is after pair number `last`.

        Args:
            distances: (n,) of the batch, which follows the pairs in the buffers.
            same: (n,) of the batch.
            counts: (n,) pairs of the batch up to each, without those left out.
            last: 0-dimensional, at most one interval after the end of the batch.
        """
        slots = torch.arange(len(self.distances), device=counts.device)
        newest = last - (last - 1 - slots) % len(self.distances)
        fresh = newest > self.observed
        source = torch.searchsorted(counts, newest - self.observed).clamp(max=len(counts) - 1)
        return (
            torch.where(fresh, distances[source], self.distances),
            torch.where(fresh, same[source], self.same),
        )


def _best_threshold(distances: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the threshold with the least errors, and whether there are pairs of both kinds.

    Args:
        distances: (window,), infinite where there is no pair.
        same: (window,) bool, False where there is no pair.
    """
    ascending, order = distances.sort()
    # Cut c calls the c nearest pairs same. It errs on the different ones among them and on all same
    # pairs but those among them; the number of all same pairs is left away.
    below = torch.cat((ascending.new_zeros(1), ascending))
    above = torch.cat((ascending, ascending.new_full((1,), torch.inf)))
    nearer = torch.cat((same.new_zeros(1), same[order])).cumsum(0)
    errors = torch.arange(len(below), device=below.device) - 2 * nearer
    # No threshold lies between equal distances, nor between slots without a pair.
    errors = torch.where(below < above, errors, len(below))
    best = (errors == errors.min()).cumsum(0)
    middle = torch.searchsorted(best, (best[-1:] + 1) // 2)
    low, high = below[middle], above[middle]
    halfway = low + (high - low) / 2
    # Halfway to infinity, and between neighbours in the dtype, nothing may lie.
    threshold = torch.where(halfway < high, halfway, low).squeeze(0)
    pairs = (distances < torch.inf).sum()
    return threshold, (nearer[-1] > 0) & (nearer[-1] < pairs)
