"""The renewals of the weights in a run: which weights held from which step on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Renewals"]

# Numbers to remember at most: weights that change in every step would need memory without end.
MOST = 100_000
# But so many renewals, however many tasks there are.
LEAST = 100


class Renewals:
    """Which weights held from which step on; the first are those that a run began with.

    No step waits for the device: weights are copied there, and compared at the next ``look``. Of
    more renewals than 100,000 numbers hold, every second is kept, then every fourth, and so on.

    Example:
        >>> renewals = Renewals()
        >>> renewals.begin(0, [1.0, 1.0])
        >>> for step, weights in enumerate([[1.0, 1.0], [0.5, 1.5], [0.5, 1.5]], 1):
        ...     renewals.add(step, torch.tensor(weights))
        >>> renewals.look(torch.ones(2))
        >>> list(renewals)
        [(0, [1.0, 1.0]), (2, [0.5, 1.5])]
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._weights: list[list[float]] = []
        # How many there were, and of how many in a row one is kept.
        self._count, self._stride = 0, 1
        self._newest: list[float] | None = None
        self._waiting: list[tuple[int, Tensor]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[tuple[int, list[float]]]:
        return zip(self._steps, self._weights, strict=True)

    def begin(self, step: int, weights: Sequence[float]) -> None:
        """Takes the weights that a run begins or goes on with."""
        self._newest = list(weights)
        if not self._steps:
            self._keep(step, self._newest)

    def add(self, step: int, weights: Tensor) -> None:
        """Takes the weights after a step, (T,), without a look at them."""
        self._waiting.append((step, weights.clone()))

    def look(self, static: Tensor) -> None:
        """Keeps what has changed since the last look; times the tasks' own weights, (T,)."""
        if not self._waiting:
            return
        steps, weights = zip(*self._waiting, strict=True)
        self._waiting.clear()
        for step, row in zip(steps, (torch.stack(weights) * static).tolist(), strict=True):
            if row != self._newest:
                self._newest = row
                self._keep(step, row)

    def _keep(self, step: int, weights: list[float]) -> None:
        if self._count % self._stride == 0:
            self._steps.append(step)
            self._weights.append(weights)
        self._count += 1
        if len(self._steps) > max(LEAST, MOST // len(weights)):
            del self._steps[1::2], self._weights[1::2]
            self._stride *= 2

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a resumed run must know."""
        weights = torch.tensor(self._weights, dtype=torch.float64)
        numbers = {"count": self._count, "stride": self._stride}
        return {"steps": list(self._steps), "weights": weights, **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` returned."""
        self._steps, self._weights = list(state["steps"]), state["weights"].tolist()
        self._count, self._stride = state["count"], state["stride"]
