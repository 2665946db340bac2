"""Partial sums of a forward pass: their scratch, and the launches that make results of them."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from .finish import NONE, REDUCTIONS, finish_kernel, sums_kernel
from .launch import Launch, Options, divide_up, overlaps

_ALONE = 64  # as many tasks are one program's
_COLUMNS = 16  # of a program, where there are more
_MOST = 4096  # partial sums that a program adds to at once; half of them with weights
_EACH = 4  # and each of its threads
_BATCH = 4  # of those that it loads before


class Sums(NamedTuple):
    """The partial sums of a call: `parts` of each of `period` slots of each task."""

    tasks: int
    period: int
    parts: int
    weighted: bool
    groups: int  # of tasks, each a program's
    add: Launch
    finish: Launch | None  # where there are several, and a loss

    def scratch(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns scratch of the call's own, for sums and for weights: streams can't share it."""
        count = self.tasks * self.period * self.parts
        sums = like.new_empty(count, dtype=torch.int64)
        return sums, like.new_empty(count, dtype=torch.float32) if self.weighted else None

    def __call__(
        self,
        device: int,
        scratch: tuple[Tensor, Tensor | None],
        samples: int,
        task_weight: Tensor | None,
        task_loss: Tensor | None,
        count: Tensor | None,
        denominator: Tensor,
        loss: Tensor | None,
    ) -> None:
        """Fills task_loss, count, denominator and loss, those that there are."""
        scalars = None
        if self.finish is not None:
            scalars = denominator.new_empty(2 * self.groups, dtype=torch.float64)
        tensors = (*scratch, task_weight, task_loss, count, denominator, loss, scalars)
        self.add(device, tensors, (self.tasks, self.period, self.parts, samples))
        if self.finish is not None:
            self.finish(device, (scalars, loss, denominator), (self.groups, self.tasks))


@functools.lru_cache(maxsize=1024)
def sums_of(
    tasks: int, period: int, parts: int, weighted: bool, reduction: int, device: int
) -> Sums:
    """Returns how such partial sums are added up."""
    name, follows = REDUCTIONS[reduction], overlaps(device)
    alone = tasks <= _ALONE
    columns = 1 << (tasks - 1).bit_length() if alone else _COLUMNS
    most = _MOST if alone and tasks > 1 and not weighted else _MOST // 2
    # Powers of 2: of the parts, as many as a program takes, but a warp's at least.
    width = max(min(1 << (parts - 1).bit_length(), most // columns), 256 // columns)
    batch = _BATCH if parts > width else 1
    groups = divide_up(tasks, columns)
    add = Launch(
        sums_kernel,
        groups,
        (name, weighted, columns, width, batch, follows),
        Options(columns * width // _EACH, follows=follows),
    )
    finish = None
    if groups > 1 and reduction != NONE:
        options = Options(256, follows=follows)
        finish = Launch(finish_kernel, 1, (name, 1024, follows), options)
    return Sums(tasks, period, parts, weighted, groups, add, finish)
