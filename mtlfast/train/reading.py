"""How data sets are checked and read: the forms of batches, and a plan turned into batches."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, tee
from typing import Any, NamedTuple

import torch
from accelerate.utils import recursively_apply, set_seed, slice_tensors
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from mtlfast.train.data import Data, Rows, TaskDatasets
from mtlfast.train.labels import row_of
from mtlfast.train.looks import Look
from mtlfast.train.sampler import Plan, Step
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

    An item, and a batch alike, is ``(input, {target name: labels})``; or ``(input, labels)`` where
    all tasks name the same target; or a mapping that holds input and labels by name. Where a
    mapping holds more than one entry that is no target, the model gets the mapping of those.

    Args:
        role: what the data set is for, for messages.
        given: see ``Rows``.
        tasks: the tasks.
        labelled: whether items must come with labels.

    Attributes:
        classes: the width of each head, once it is known.
        judged: whether labels of -1 and 1 are refused.
        needed: whether every task must have a label, as far as those in memory tell.
        unseen: whether labels are looked at only when they are read.
    """

    def __init__(
        self, role: str, given: Any, tasks: Sequence[Task], *, labelled: bool = True
    ) -> None:
        self.role, self.tasks, self.labelled, self.unseen = role, tasks, labelled, labelled
        self.classes: dict[str, int] = {}
        self.judged, self.needed = role == "dataset", role != "validation"
        self.data = Rows(role, given)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, raw: Any, tasks: Sequence[Task]) -> Batch:
        """Returns a batch, or an item, in the one form that training uses."""
        names = dict.fromkeys(task.target for task in self.tasks)
        if isinstance(raw, Mapping):
            rest = {name: part for name, part in raw.items() if name not in names}
            inputs = next(iter(rest.values())) if len(rest) == 1 else rest
            return Batch(inputs, {name: raw[name] for name in names if name in raw}, tasks)
        pair = isinstance(raw, tuple | list) and len(raw) == 2
        if pair and isinstance(raw[1], Mapping):
            return Batch(raw[0], dict(raw[1]), tasks)
        if pair and len(names) == 1 and not isinstance(raw[1], tuple | list):
            return Batch(raw[0], dict.fromkeys(names, torch.as_tensor(raw[1])), tasks)
        if not self.labelled:
            bare = isinstance(raw, tuple | list) and len(raw) == 1
            return Batch(raw[0] if bare else raw, {}, tasks)
        shown = f"{len(raw)} values" if isinstance(raw, tuple | list) else type(raw).__name__
        raise ValueError(
            f"{self.role} must yield (input, {{target name: labels}}), or (input, labels) where "
            f"there is one target, or a mapping; got {shown}."
        )

    def check(self) -> None:
        """Checks that the data set can serve its tasks, as far as one item tells.

        Of labels in memory every one is looked at, where each task needs some.

        Raises:
            ValueError: for an item of another form, or labels that are missing.
        """
        item, held = self.batch(self.data[0], self.tasks), self.held
        for task in self.tasks:
            if task.target not in item.targets:
                there = ", ".join(item.targets) or "none"
                raise ValueError(
                    f"{self.role} has no labels {task.target!r} for {task}; it has {there}."
                )
            try:
                width = torch.as_tensor(item.targets[task.target]).numel()
            except (TypeError, ValueError, RuntimeError) as error:
                got = type(item.targets[task.target]).__name__
                raise ValueError(
                    f"{self.role} must hold numbers as labels {task.target!r}; got {got}."
                ) from error
            if width % len(task.names):
                raise ValueError(
                    f"{self.role} must hold {len(task.names)} labels a sample for {task}; "
                    f"got {width}."
                )
            if held is not None and self.needed:
                counts = task.counts(held).tolist()
                for name, labelled in zip(task.names, counts, strict=True):
                    if not labelled:
                        raise ValueError(f"{self.role} has no labelled sample of task {name!r}.")

    @property
    def held(self) -> dict[str, Tensor] | None:
        """All labels, where they lie in memory."""
        labels = self.data.labels()
        return None if labels is None else self.batch(labels, self.tasks).targets

    def first(self, device: torch.device) -> Batch:
        """Returns a batch of the first samples, two at most, read without workers."""
        indices = list(range(min(2, len(self))))
        raw = _Keyed(self.data).__getitems__((0, indices))
        collate = self.data.options.get("collate_fn") or default_collate
        batch = self.batch(collate(raw), self.tasks)
        return batch._replace(**_moved(batch, device))

    def check_held(self) -> None:
        """Looks at all labels that lie in memory, where the widths of the heads are known."""
        if (held := self.held) is not None:
            self._look()(held, range(len(self)))
            self.unseen = False

    def _look(self) -> Look:
        return Look(self.tasks, self.classes, len(self), self.row, self.judged)

    def row(self, index: int) -> str:
        """Returns how messages name a row that is read: by its place in the whole data set."""
        return row_of(self.data.numbers[index], self.role)

    def load(
        self, slices: Iterable[tuple[int, list[int]]], tasks: Sequence[Task], device: torch.device
    ) -> Iterator[Batch]:
        """Yields the batches of the given indices, on ``device``.

        Args:
            slices: for each batch a number that seeds what a worker draws at random for it, and its
                indices.
            tasks: the tasks that are computed on them.
            device: where tensors are moved to.
        """
        # A generator of its own: the loader would draw its base seed from the global one.
        keyed, kept = tee(slices)
        batches: Any = keyed
        loader = DataLoader(
            _Keyed(self.data),
            batch_sampler=batches,
            generator=torch.Generator(),
            **self.data.options,
        )
        look = self._look()
        for raw, (_, indices) in zip(loader, kept, strict=False):
            batch = self.batch(raw, tasks)
            if self.unseen:
                look(batch.targets, indices)
            yield batch._replace(**_moved(batch, device))


class _Keyed(Dataset[Any]):
    """A data set read by (key, indices).

    In a worker the key seeds all random generators, so that what is drawn for a batch depends
    neither on the number of workers nor on where a run was interrupted.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitems__(self, keyed: tuple[int, list[int]]) -> Any:
        key, indices = keyed
        if get_worker_info() is not None:
            set_seed(key)
        if hasattr(self.data, "__getitems__"):
            return self.data.__getitems__(indices)
        return [self.data[index] for index in indices]


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
    wanted = [[task for task in source.tasks if task in active] for source in sources]
    iterators = []
    for number, source in enumerate(sources):
        parts = [part for step in steps for part in step if part.source == number]
        # An empty slice is read as one sample of the first process's, and cut to no rows below.
        indices = [part.slices[rank] or part.slices[0][:1] for part in parts]
        keys = (zlib.crc32(repr((*seed, rank, chosen)).encode()) for chosen in indices)
        slices = zip(keys, indices, strict=True)
        iterators.append(source.load(slices, wanted[number], device))
    for step in steps:
        batches = []
        for part in step:
            if not wanted[part.source]:
                continue
            batch = next(iterators[part.source])._replace(rows=part.rows)
            if not part.slices[rank]:
                inputs, targets = slice_tensors((batch.inputs, batch.targets), slice(0, 0))
                batch = batch._replace(inputs=inputs, targets=targets)
            batches.append(batch)
        yield batches


def _moved(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Returns the inputs and labels of a batch on a device."""

    # accelerate's send_to_device looks for the packages of five vendors in each call: 0.3 ms.
    def move(tensor: Tensor) -> Tensor:
        if device.type == "mps" and tensor.dtype == torch.float64:
            tensor = tensor.float()
        return tensor.to(device, non_blocking=device.type == "cuda")

    return {
        "inputs": recursively_apply(move, batch.inputs),
        "targets": {name: move(target) for name, target in batch.targets.items()},
    }


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
