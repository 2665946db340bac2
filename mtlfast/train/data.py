"""Data sets and the order in which they are read.

A data set yields ``(input, {target name: labels})``. The order of training is a pure function of
(seed, epoch, step), so a run that continues in any epoch reads what the first run would have read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtlfast.train.tasks import Task

__all__ = ["Samples", "check_data", "endless", "load", "once", "plan", "samples"]

Batch = tuple[Any, dict[str, Tensor]]
Data = Dataset[Any] | DataLoader[Any]
LENT = ("num_workers", "collate_fn", "worker_init_fn", "pin_memory")
Plan = list[list[list[int]]]


class Samples(Dataset[Any]):
    """A data set held in tensors.

    Args:
        inputs: (N, ...) inputs.
        targets: by name, (N,) or (N, T) labels; missing ones are NaN or negative.

    Raises:
        ValueError: where a target has not N rows.

    Example:
        >>> data = Samples(torch.zeros(3, 8), {"kind": torch.tensor([0, 2, -1])})
        >>> len(data), data[1][1]
        (3, {'kind': tensor(2)})
    """

    def __init__(self, inputs: Tensor, targets: Mapping[str, Tensor]) -> None:
        for name, target in targets.items():
            if len(target) != len(inputs):
                raise ValueError(
                    f"target {name!r} must have {len(inputs)} rows; got {len(target)}."
                )
        self.inputs, self.targets = inputs, dict(targets)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> Batch:
        return self.inputs[index], {name: target[index] for name, target in self.targets.items()}

    def __getitems__(self, indices: list[int]) -> Batch:
        return self[indices]

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """Returns the batch, which ``__getitems__`` has gathered at once."""
        return batch


def plan(length: int, batch_size: int, *, seed: int, epoch: int, micro: int = 1) -> Plan:
    """Returns the sample indices of an epoch: for each optimizer step, its micro-batches.

    Args:
        length: number of samples, N.
        batch_size: samples per optimizer step; the last step of an epoch may hold fewer.
        seed: seed of the run.
        epoch: number of the epoch; every epoch has another order.
        micro: parts into which a step is cut; parts differ by one sample at most, empty ones are
            dropped.

    Example:
        >>> [len(step) for step in plan(10, 4, seed=0, epoch=0, micro=2)]
        [2, 2, 2]
    """
    order = np.random.default_rng([seed, epoch]).permutation(length)
    steps = (order[start : start + batch_size] for start in range(0, length, batch_size))
    return [[part.tolist() for part in np.array_split(step, micro) if len(part)] for step in steps]


def load(source: Data, batches: Iterable[Any], device: torch.device) -> Iterator[Batch]:
    """Yields the batches of the given indices, on ``device``.

    Args:
        source: a data set; or a DataLoader, which lends its data set, workers and collate function.
        batches: the indices of each batch.
        device: where tensors are moved to.
    """
    options: dict[str, Any] = {}
    if isinstance(source, DataLoader):
        options = {name: getattr(source, name) for name in LENT}
    data = samples(source)
    if isinstance(data, Samples):
        options["collate_fn"] = data.collate
    # A generator of its own: the loader would draw its base seed from the global one.
    generator = torch.Generator().manual_seed(0)
    for batch in DataLoader(data, batch_sampler=batches, generator=generator, **options):
        yield send_to_device(batch, device)


def once(source: Data, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Yields a data set in its own order."""
    length = len(samples(source))
    starts = range(0, length, batch_size)
    return load(source, [range(i, min(i + batch_size, length)) for i in starts], device)


def samples(source: Data) -> Any:
    """Returns the data set itself, taken out of its DataLoader where it has one."""
    return source.dataset if isinstance(source, DataLoader) else source


def check_data(role: str, source: Data | None, tasks: Sequence[Task]) -> None:
    """Checks that a data set, if it is given, can serve the tasks, as far as one item tells.

    Of ``Samples``, which are at hand, every label is looked at, unless ``role`` is
    ``"validation"``.

    Raises:
        ValueError: for an empty data set, an item of another form, or labels that are missing.
    """
    if source is None:
        return
    data = samples(source)
    if not len(data):
        raise ValueError(f"{role} must hold at least one sample; got none.")
    item = data[0]
    if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Mapping)):
        raise ValueError(
            f"{role} must yield (input, {{target name: labels}}); got {type(item).__name__}."
        )
    for task in tasks:
        if task.target not in item[1]:
            there = ", ".join(item[1]) or "none"
            raise ValueError(f"{role} has no labels {task.target!r} for {task}; it has {there}.")
        width = torch.as_tensor(item[1][task.target]).numel()
        if width % len(task.names):
            raise ValueError(
                f"{role} must hold {len(task.names)} labels a sample for {task}; got {width}."
            )
        if isinstance(data, Samples) and role != "validation":
            for name, count in zip(task.names, task.counts(data.targets).tolist(), strict=True):
                if not count:
                    raise ValueError(f"{role} has no labelled sample of task {name!r}.")


def endless(
    source: Data, batch_size: int, device: torch.device, seed: int, *, position: int = 0
) -> Iterator[Batch]:
    """Yields batches from number ``position`` on without end: epoch after epoch, no restart."""
    length = len(samples(source))
    while True:
        epoch, start = divmod(position, -(-length // batch_size))
        batches = [
            part for step in plan(length, batch_size, seed=seed, epoch=epoch) for part in step
        ]
        yield from load(source, batches[start:], device)
        position += len(batches) - start
