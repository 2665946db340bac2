"""The order in which samples are read: a pure function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from numbers import Integral
from typing import NamedTuple

import numpy as np

from mtlfast.functional.checks import check_kinds

__all__ = ["SAMPLINGS", "Part", "Plan", "Step", "in_order"]

SAMPLINGS = ("proportional", "round_robin", "max_size_cycle")


class Part(NamedTuple):
    """A micro-batch.

    Attributes:
        source: number of the data set it comes from.
        slices: the indices that each process reads; a slice may be empty, but never the first.
    """

    source: int
    slices: list[list[int]]

    @property
    def rows(self) -> int:
        """The number of samples on all processes."""
        return sum(map(len, self.slices))


Step = list[Part]


@dataclass(frozen=True)
class Plan:
    """The optimizer steps of every epoch, each a list of micro-batches.

    Every data set is read in an order of its own, ``batch_size`` samples at a time, and they take
    turns as ``TaskDatasets`` says; one that starts again in an epoch does so in another order.

    Args:
        lengths: number of samples of each data set.
        batch_size: samples of a data set in a step; the last batch of an epoch may hold fewer.
        seed: seed of the run.
        micro: micro-batches into which a batch is cut; they differ by one sample at most, and empty
            ones are left out.
        processes: into how many slices each micro-batch is cut.
        sampling: how several data sets take turns.

    Example:
        >>> plan = Plan([10], 4, seed=0, micro=2)
        >>> len(plan), [[part.rows for part in step] for step in plan.epoch(0)]
        (3, [[2, 2], [2, 2], [1, 1]])
    """

    lengths: Sequence[int]
    batch_size: int
    seed: int
    micro: int = 1
    processes: int = 1
    sampling: str = "proportional"

    def __len__(self) -> int:
        """Returns the number of steps of an epoch."""
        batches = [-(-length // self.batch_size) for length in self.lengths]
        return max(batches) if self.sampling == "max_size_cycle" else sum(batches)

    def epoch(self, number: int) -> list[Step]:
        """Returns the steps of an epoch, counted from 0."""
        sources = range(len(self.lengths))
        if self.sampling == "max_size_cycle":
            together = zip(*(self._batches(s, number, len(self)) for s in sources), strict=False)
            return [list(chain(*steps)) for steps in together]
        each = [self._batches(source, number) for source in sources]
        if self.sampling == "round_robin":
            turns = zip_longest(*each)
            return [step for turn in turns for step in turn if step is not None]
        steps = list(chain(*each))
        if len(each) == 1:
            return steps
        order = np.random.default_rng([self.seed, number, len(each), 0]).permutation(len(steps))
        return [steps[i] for i in order]

    def _batches(self, source: int, epoch: int, least: int = 1) -> list[Step]:
        """Returns a data set's batches in micro-batches; read again until there are enough."""
        steps: list[Step] = []
        rounds = 0
        while len(steps) < least:
            again = [source, rounds] if source or rounds else []
            order = np.random.default_rng([self.seed, epoch, *again])
            shuffled = order.permutation(self.lengths[source])
            for start in range(0, len(shuffled), self.batch_size):
                pieces = np.array_split(shuffled[start : start + self.batch_size], self.micro)
                steps.append([Part(source, _cut(p, self.processes)) for p in pieces if len(p)])
            rounds += 1
        return steps


def in_order(length: int, batch_size: int, processes: int = 1) -> list[Step]:
    """Returns the steps that read a data set once in its own order, a share for each process.

    Example:
        >>> [step[0].slices for step in in_order(7, 2, processes=2)]
        [[[0, 1], [4, 5]], [[2, 3], [6]]]
    """
    check_kinds([("batch_size", batch_size, Integral, "a whole number")])
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    shares = _cut(np.arange(length), processes)
    starts = range(0, len(shares[0]), batch_size)
    return [[Part(0, [share[i : i + batch_size] for share in shares])] for i in starts]


def _cut(indices: np.ndarray, parts: int) -> list[list[int]]:
    return [piece.tolist() for piece in np.array_split(indices, parts)]
