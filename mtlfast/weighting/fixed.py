"""Weights that a person chose."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from mtlfast.weighting.base import Weighting

__all__ = ["Fixed"]


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
