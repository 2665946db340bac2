"""Weights that a person chose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from typing import Self

import torch

from mtlfast.functional.checks import check_scalar, fail
from mtlfast.functional.combine import check_normalize
from mtlfast.weighting.base import Weighting

__all__ = ["Fixed"]


class Fixed(Weighting):
    """Weights that stay as given: sum_t w_t L_t.

    Args:
        weights: T numbers, none negative and not all zero.
        normalize: ``None`` takes them as they are, ``"sum"`` scales them to sum 1 (the convention
            of Caffe's ``loss_weight`` 0.2 for each of five tasks), ``"mean"`` to mean 1.

    Raises:
        TypeError: for weights that are no numbers in a row.
        ValueError: for no, negative, non-finite or all-zero weights and an unknown ``normalize``.

    Example:
        >>> Fixed([1.0, 3.0], normalize="sum")(torch.tensor([4.0, 8.0]))
        tensor(7.)
    """

    def __init__(self, weights: Iterable[float], normalize: str | None = None) -> None:
        numbers = _numbers(weights)
        if not all(0 <= number < math.inf for number in numbers) or not 0 < sum(numbers) < math.inf:
            fail(f"weights must be finite, not negative and not all 0; got {numbers}.")
        check_normalize(normalize)
        total = {None: 1.0, "sum": sum(numbers), "mean": sum(numbers) / len(numbers)}[normalize]
        super().__init__(torch.tensor([number / total for number in numbers]))

    @classmethod
    def for_run(cls, num_tasks: int, steps: int, epochs: int, seed: int = 0) -> Self:
        """Returns equal weights, 1 for each task; they know nothing of a run's length or seed."""
        return cls([1.0] * num_tasks)

    def extra_repr(self) -> str:
        """Returns the weights, as ``repr(module)`` and a run's report show them."""
        shown = [f"{weight:g}" for weight in self.weights]
        alike = len(shown) > 12 and len(set(shown)) == 1
        return f"{shown[0]} for each of {len(shown)} tasks" if alike else ", ".join(shown)


def _numbers(weights: Iterable[float]) -> list[float]:
    """Returns numbers of Python's; a tensor or an array may hold them."""
    ordered = isinstance(weights, Iterable) and not isinstance(weights, str | bytes | Mapping | Set)
    shape = getattr(weights, "shape", None)
    if not ordered or (shape is not None and len(shape) != 1):
        got = type(weights).__name__ if shape is None else f"shape {tuple(shape)}"
        fail(f"weights must be T numbers, one per task; got {got}.", TypeError)
    tolist = getattr(weights, "tolist", None)
    numbers = list(weights if tolist is None else tolist())
    for position, number in enumerate(numbers):
        check_scalar(f"weights[{position}]", number)
    return [float(number) for number in numbers]
