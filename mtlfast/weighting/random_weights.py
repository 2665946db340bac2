"""Weights drawn anew for every step, from a counter instead of a generator."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from mtlfast.functional.checks import check_whole
from mtlfast.weighting.base import Weighting

__all__ = ["RandomWeights"]

# SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014): its constants as signed 64-bit integers.
STEP = 0x9E3779B97F4A7C15 - 2**64
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


class RandomWeights(Weighting):
    """Weights drawn anew for every optimizer step.

    The baseline that an adaptive rule must beat,

        w = T softmax(z),  z_t ~ N(0, 1)

    The weights are a function of the seed, the step and the task alone: the same in every process
    and, up to rounding, on every device; unmoved by other random numbers and moving none; and the
    same after a restart.

    Args:
        num_tasks: T.
        seed: chooses the sequence, a nonnegative 64-bit integer.

    Attributes:
        weights: (T,) what the next ``combine`` uses.
        seed: the seed, a 0-dimensional int64 buffer.
        step: steps so far, a 0-dimensional int64 buffer.

    Raises:
        TypeError: for a number that is not whole.
        ValueError: for num_tasks below 1 or a seed outside [0, 2^63).

    Source: B. Lin, F. Ye, Y. Zhang, I. W. Tsang, Reasonable Effectiveness of Random Weighting: A
    Litmus Test for Multi-Task Learning, TMLR 2022.

    Example:
        >>> weighting = RandomWeights(3, seed=1)
        >>> weighting.weights
        tensor([0.3628, 0.5944, 2.0427])
        >>> total = weighting(torch.tensor([1.0, 2.0, 3.0]))
        >>> weighting.weights
        tensor([0.6893, 0.6891, 1.6216])
    """

    seed: Tensor
    step: Tensor

    def __init__(self, num_tasks: int, *, seed: int = 0) -> None:
        check_whole("num_tasks", num_tasks, 1)
        check_whole("seed", seed, 0, 2**63 - 1)
        super().__init__(torch.empty(num_tasks))
        self.register_buffer("seed", torch.tensor(int(seed)))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._draw()

    @classmethod
    def for_run(cls, num_tasks: int, steps: int, epochs: int, seed: int = 0) -> Self:
        """Returns the one that draws by the run's own seed."""
        return cls(num_tasks, seed=seed)

    def extra_repr(self) -> str:
        """Returns the settings, as ``repr(module)`` and a run's report show them."""
        return f"{super().extra_repr()}, seed={self.seed}"

    @torch.no_grad()
    def advance(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Draws the weights of the next step."""
        self._check(losses, counts)
        self.step.add_(1)
        self._draw()

    def _draw(self) -> None:
        """Sets the weights to those of the current step."""
        tasks = len(self.weights)
        numbers = torch.arange(1, tasks + 1, device=self.step.device) + self.step * tasks
        bits = _hash(self.seed + numbers * STEP)
        # 23 bits, so that float32 holds the middle of each of as many equal parts of (0, 1).
        uniform = (_shifted(bits, 41).float() + 0.5) * 2.0**-23
        self.weights.copy_(torch.softmax(torch.special.ndtri(uniform), 0) * tasks)


def _hash(bits: Tensor) -> Tensor:
    """Returns the output of SplitMix64 for int64 states; products wrap around."""
    for places, factor in ROUNDS:
        bits = (bits ^ _shifted(bits, places)) * factor
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Returns int64 bits shifted right, with zeros coming in: `>>` repeats the sign."""
    shifted: Tensor = (bits >> places) & (2 ** (64 - places) - 1)
    return shifted
