"""Every label is looked at once: those in memory before training, others as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mtlfast.train import labels
from mtlfast.train.tasks import Task

__all__ = ["Look"]


class Look:
    """One pass over the labels of a data set, on the host.

    Called with a batch it checks that labels are of the values that the losses take; and once it
    has seen all rows, that negative labels are not written as -1: that no column holds -1 and 1
    where all columns, in any data set of the task so far, have not one 0. Of several processes each
    reads a share, so that the latter is checked where labels lie in memory alone.

    Args:
        tasks: the tasks of the data set.
        classes: the width of each head, as far as it is known.
        count: how many rows of the data set are read.
        row: names one of them in messages.
        judges: whether -1 and 1 are refused; beside training data others may be too small for a 0.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        classes: Mapping[str, int],
        count: int,
        row: Callable[[int], str],
        judges: bool,
    ) -> None:
        self.tasks, self.classes, self.row, self.judges = tasks, classes, row, judges
        # Whether -1, 0 and 1 have been seen in each column.
        self.signs = [torch.zeros(3, len(task.names), dtype=torch.bool) for task in tasks]
        self.left = count

    def __call__(self, targets: Mapping[str, Tensor], indices: Sequence[int]) -> None:
        """Looks at labels.

        Args:
            targets: the labels by name.
            indices: which of the rows that are read they belong to.

        Raises:
            ValueError: for a class that the head does not have, a binary label outside [0, 1], or
                a target of -1 and 1.
        """
        self.left -= len(indices)

        def where(at: int) -> str:
            return self.row(indices[at])

        for task, signs in zip(self.tasks, self.signs, strict=True):
            target = targets.get(task.target)
            if target is not None and target.device.type == "cpu":
                task.check_labels(target, self.classes.get(task.output), where)
                if task.loss.hides_negatives(target) and not task.zeros:
                    signs |= labels.signs(target, task.labelled(target), len(task.names))
                    task.zeros |= bool(signs[1].any())
            told = not task.zeros and bool((signs[0] & signs[2]).any())
            if told and self.judges and not self.left:
                raise ValueError(
                    f"{task}: labels are -1 and 1: write 0 for negative; -1 is missing."
                )
