"""Data sets and the tasks that they serve: what is checked of them, and a plan read as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from accelerate.utils import recursively_apply, slice_tensors
from torch import Tensor

from mtlfast.data import Data, Part, Plan, Rows, Step, TaskDatasets
from mtlfast.train import labels
from mtlfast.train.tasks import Task

__all__ = ["Batch", "Source", "endless", "read", "sources"]


class Batch(NamedTuple):
    """Some samples on the device.

    Attributes:
        inputs: what the model takes.
        targets: labels by name.
        tasks: the tasks that are computed on them.
        rows: how many samples all processes have together.
    """

    inputs: Any
    targets: dict[str, Tensor]
    tasks: Sequence[Task]
    rows: int = 0


class Source:
    """One data set as it was given, and the tasks it has labels for.

    Args:
        role, given, labelled: see ``Rows``.
        tasks: the tasks.

    Attributes:
        classes: the width of each head, once it is known.
        judged: whether labels of -1 and 1 are refused; beside training data others may be too small
            for a 0.
        needed: whether every task must have a label, as far as those in memory tell.
        unseen: whether labels are looked at only when they are read.
    """

    def __init__(
        self, role: str, given: Any, tasks: Sequence[Task], *, labelled: bool = True
    ) -> None:
        self.role, self.tasks, self.unseen = role, tasks, labelled
        self.classes: dict[str, int] = {}
        self.judged, self.needed = role == "dataset", role != "validation"
        names = dict.fromkeys(task.target for task in tasks)
        self.data = Rows(role, given, names, labelled=labelled)

    def __len__(self) -> int:
        return len(self.data)

    def check(self) -> None:
        """Checks that the data set has labels for its tasks, as far as one item tells.

        Raises:
            ValueError: for an item of another form, or one without as many numbers as labels.
        """
        _, targets = self.data.item()
        for task in self.tasks:
            name, count = task.target, len(task.names)
            if name not in targets:
                there = ", ".join(targets) or "none"
                raise ValueError(f"{self.role} has no labels {name!r} for {task}; it has {there}.")
            try:
                width = torch.as_tensor(targets[name]).numel()
            except (TypeError, ValueError, RuntimeError) as error:
                wanted, got = f"numbers as labels {name!r}", type(targets[name]).__name__
                raise ValueError(f"{self.role} must hold {wanted}; got {got}.") from error
            if width % count:
                wanted = f"{count} labels a sample for {task}"
                raise ValueError(f"{self.role} must hold {wanted}; got {width}.")

    def check_held(self) -> None:
        """Looks at all labels that lie in memory, where the widths of the heads are known.

        Raises:
            ValueError: for a task without any, where each task needs some; and as ``look``.
        """
        if (held := self.data.held()) is None:
            return
        for task in self.tasks if self.needed else ():
            counts = task.counts(task.labelled(held[task.target]))
            for name, labelled in zip(task.names, counts.tolist(), strict=True):
                if not labelled:
                    raise ValueError(f"{self.role} has no labelled sample of task {name!r}.")
        self.look()(held, range(len(self)))
        self.unseen = False

    def look(self) -> Callable[[Mapping[str, Tensor], Sequence[int]], None]:
        """Returns what takes one look at all labels on the host, batch after batch.

        It takes the labels by name, and which of the rows that are read they belong to. It checks
        that labels are of the values that the losses take; and once it has seen all rows, that
        negative labels are not written as -1: that no column holds -1 and 1 where all columns, in
        any data set of the task so far, have not one 0. Of several processes each reads a share, so
        that the latter is checked where labels lie in memory alone.

        It raises ValueError for a class that the head does not have, a binary label outside [0, 1],
        or a target of -1 and 1.
        """
        left = len(self)
        # Whether -1, 0 and 1 have been seen in each column.
        seen = [torch.zeros(3, len(task.names), dtype=torch.bool) for task in self.tasks]

        def look(targets: Mapping[str, Tensor], indices: Sequence[int]) -> None:
            nonlocal left
            left -= len(indices)
            for task, signs in zip(self.tasks, seen, strict=True):
                target = targets.get(task.target)
                if target is not None and target.device.type == "cpu":
                    classes = self.classes.get(task.output)
                    task.check_labels(target, classes, lambda at: self.row(indices[at]))
                    if task.loss.hides_negatives(target) and not task.zeros:
                        signs |= labels.signs(target, task.labelled(target), len(task.names))
                        task.zeros |= bool(signs[1].any())
                told = not task.zeros and bool((signs[0] & signs[2]).any())
                if told and self.judged and not left:
                    raise ValueError(
                        f"{task}: labels are -1 and 1: write 0 for negative; -1 is missing."
                    )

        return look

    def first(self, device: torch.device) -> Batch:
        """Returns a batch of the first samples, two at most, read without workers."""
        inputs, targets = _moved(self.data.first(), device)
        return Batch(inputs, targets, self.tasks)

    def row(self, index: int) -> str:
        """Returns how messages name a row that is read: by its place in the whole data set."""
        return labels.row_of(self.data.numbers[index], self.role)

    def load(
        self,
        parts: Sequence[Part],
        tasks: Sequence[Task],
        device: torch.device,
        rank: int,
        seed: Sequence[int],
    ) -> Iterator[Batch]:
        """Yields the batches of a process's slices of these micro-batches; see ``read``."""
        # An empty slice is read as one sample of the first process's, and cut to no rows below.
        slices = [part.slices[rank] or part.slices[0][:1] for part in parts]
        look, pairs = self.look(), self.data.load(slices, (*seed, rank))
        for pair, part, indices in zip(pairs, parts, slices, strict=False):
            if self.unseen:
                look(pair[1], indices)
            inputs, targets = _moved(pair, device)
            if not part.slices[rank]:
                inputs, targets = slice_tensors((inputs, targets), slice(0, 0))
            yield Batch(inputs, targets, tasks, part.rows)


def sources(
    role: str, data: Data | None, tasks: Sequence[Task], *, optional: bool = False
) -> list[Source]:
    """Returns the data sets that ``data`` consists of; none for None, where it is optional.

    Raises:
        ValueError: where there are none for a task, or one that cannot be read by index.
    """
    if data is None and optional:
        return []
    if not isinstance(data, TaskDatasets):
        return [Source(role, data, tasks)]
    owner = {name: task for task in tasks for name in task.names}
    if unknown := data.datasets.keys() - owner.keys():
        raise ValueError(f"{role} must name tasks of {list(owner)}; got {sorted(unknown)}.")
    found = [Source(role, given, [owner[name]]) for name, given in data.datasets.items()]
    if len({id(task) for source in found for task in source.tasks}) < len(found):
        raise ValueError(f"{role} must name a group once; got {list(data.datasets)}.")
    if missing := [task for task in tasks if not any(task in s.tasks for s in found)]:
        raise ValueError(f"{role} must have a data set for every task; got none for {missing}.")
    return found


def read(
    sources: Sequence[Source],
    steps: Sequence[Step],
    active: Sequence[Task],
    device: torch.device,
    *,
    rank: int = 0,
    seed: Sequence[int] = (0,),
) -> Iterator[list[Batch]]:
    """Yields for each step its micro-batches, those of tasks that are not active left out.

    Where this process's slice of a micro-batch is empty, it gets a batch without rows.

    Args:
        sources: the data sets.
        steps: a plan of them, or the rest of one.
        active: the tasks that are trained.
        device: where batches go.
        rank: which slices to read.
        seed: seeds what workers draw at random, together with the rank and the indices.
    """
    streams = {}
    for number, source in enumerate(sources):
        if tasks := [task for task in source.tasks if task in active]:
            parts = [part for step in steps for part in step if part.source == number]
            streams[number] = source.load(parts, tasks, device, rank, seed)
    for step in steps:
        yield [next(streams[part.source]) for part in step if part.source in streams]


def _moved(pair: tuple[Any, dict[str, Any]], device: torch.device) -> Any:
    """Returns the inputs and labels of a batch on a device."""

    # accelerate's send_to_device looks for the packages of five vendors in each call: 0.3 ms.
    def move(tensor: Tensor) -> Tensor:
        if device.type == "mps" and tensor.dtype == torch.float64:
            tensor = tensor.float()
        return tensor.to(device, non_blocking=device.type == "cuda")

    return recursively_apply(move, pair)


def endless(
    sources: Sequence[Source],
    plan: Plan,
    device: torch.device,
    *,
    rank: int = 0,
    start: int = 0,
) -> Iterator[list[Batch]]:
    """Yields a plan's batches from step ``start`` on: epoch after epoch, without end."""
    first, start = divmod(start, len(plan))
    for epoch in count(first):
        tasks = [task for source in sources for task in source.tasks]
        steps, key = plan.epoch(epoch)[start:], (plan.seed, epoch)
        yield from read(sources, steps, tasks, device, rank=rank, seed=key)
        start = 0
