"""The data sets one can train on besides any map-style data set or DataLoader of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from mtlfast.train.kinds import check_kinds
from mtlfast.train.sampler import SAMPLINGS

__all__ = ["Data", "Rows", "Samples", "TaskDatasets"]

LENT = ("num_workers", "collate_fn", "worker_init_fn", "pin_memory", "multiprocessing_context")


class Samples(Dataset[Any]):
    """A data set held in tensors; a Trainer reads a batch of it at once, by a tensor of indices.

    Args:
        inputs: (N, ...) inputs.
        targets: by name, (N,) or (N, T) labels; missing ones are NaN or negative: see ``Task``.

    Raises:
        TypeError: for what is no tensor.
        ValueError: where a target has not N rows.

    Example:
        >>> import torch
        >>> data = Samples(torch.zeros(3, 8), {"kind": torch.tensor([0, 2, -1])})
        >>> len(data), data[1][1]
        (3, {'kind': tensor(2)})
    """

    def __init__(self, inputs: Tensor, targets: Mapping[str, Tensor]) -> None:
        check_kinds([("targets", targets, Mapping, "a mapping of names to labels")])
        inputs = _tensor("inputs", inputs)
        targets = {name: _tensor(f"target {name!r}", target) for name, target in targets.items()}
        for name, target in targets.items():
            if len(target) != len(inputs):
                raise ValueError(
                    f"target {name!r} must have {len(inputs)} rows; got {len(target)}."
                )
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.inputs[index], {name: target[index] for name, target in self.targets.items()}


class TaskDatasets:
    """Several data sets, each with the labels of one task.

    Args:
        datasets: by task, a data set or DataLoader; a group goes by the name of any of its tasks.
        sampling: how training takes turns. ``"proportional"``: one data set a step, in random
            order, each as often as it has batches; ``"round_robin"``: one a step, in turn, those
            that are through left out; ``"max_size_cycle"``: a batch of each in every step, until
            the longest is through. ``batch_size`` is that of each.

    Raises:
        ValueError: without data sets, or for an unknown ``sampling``.

    Example:
        >>> import torch
        >>> one, two = (Samples(torch.zeros(n, 8), {"label": torch.zeros(n)}) for n in (30, 10))
        >>> TaskDatasets({"kind": one, "size": two}, sampling="round_robin").datasets.keys()
        dict_keys(['kind', 'size'])
    """

    def __init__(self, datasets: Mapping[str, Any], sampling: str = "proportional") -> None:
        check_kinds([("datasets", datasets, Mapping, "a mapping of tasks to data sets")])
        if not datasets:
            raise ValueError("datasets must hold at least one data set; got none.")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}.")
        self.datasets, self.sampling = dict(datasets), sampling


def _tensor(what: str, given: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(given)
    except (RuntimeError, TypeError, ValueError) as error:
        got = type(given).__name__
        raise TypeError(f"{what} must be a tensor or an array of numbers; got {got}.") from error
    if not tensor.dim():
        raise ValueError(f"{what} must have a row for each sample; got one number.")
    return tensor


class Rows(Dataset[Any]):
    """The rows of a data set that are read: all of them, or those of Subsets and of a sampler.

    Args:
        role: what the data set is for, for messages.
        given: a data set with a length; or a DataLoader, which lends its data set, its workers and
            collate function, and of its sampler the rows, not their order.

    Attributes:
        data: what holds the rows, below DataLoader and Subsets.
        numbers: of the rows in it, in order.
        options: what a DataLoader lends.

    Raises:
        ValueError: for what has no length or no items by index, for no rows, or for a sampler that
            is not a fixed list of rows.

    Example:
        >>> half = Subset(Samples(torch.eye(4), {"kind": torch.arange(4)}), [3, 1])
        >>> rows = Rows("dataset", DataLoader(half, sampler=[1]))
        >>> rows.numbers, rows.labels()[1]
        ([1], {'kind': tensor([1])})
    """

    def __init__(self, role: str, given: Any) -> None:
        self.options: dict[str, Any] = {}
        self.numbers: Sequence[int]
        self.data = given
        chosen: list[tuple[str, Any]] = []
        if isinstance(given, DataLoader):
            self.options = {name: getattr(given, name) for name in LENT}
            self.data = given.dataset
            if not isinstance(self.data, IterableDataset):
                chosen = [(f"{role}'s sampler", _sampled(role, given))]
        while type(self.data) is Subset:
            chosen.append((f"{role}'s Subset", self.data.indices))
            self.data = self.data.dataset
        indexed = hasattr(self.data, "__len__") and hasattr(self.data, "__getitem__")
        # Items of what has keys, a mapping or a data frame, go by name.
        if (
            not indexed
            or isinstance(self.data, type | IterableDataset)
            or hasattr(self.data, "keys")
        ):
            raise ValueError(
                f"{role} must be a data set with a length and items by index; "
                f"got {type(self.data).__name__}."
            )
        self.numbers = range(len(self.data))
        for what, rows in reversed(chosen):
            self.numbers = _chosen(what, rows, self.numbers)
        if not len(self.numbers):
            raise ValueError(f"{role} must hold at least one sample; got none.")
        collate = self.options.get("collate_fn", default_collate)
        self.gathers = isinstance(self.data, Samples) and collate is default_collate
        if self.gathers:
            self.options["collate_fn"] = _as_it_is

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.data[self.numbers[index]]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        rows = [self.numbers[index] for index in indices]
        if self.gathers:
            return self.data[torch.as_tensor(rows)]
        together = getattr(self.data, "__getitems__", None)
        return [self.data[row] for row in rows] if together is None else together(rows)

    def labels(self) -> tuple[Any, ...] | None:
        """Returns all rows as a batch without inputs, where their labels lie in memory."""
        rows = slice(None) if isinstance(self.numbers, range) else torch.as_tensor(self.numbers)
        if type(self.data) is TensorDataset:
            return (None, *(tensor[rows] for tensor in self.data.tensors[1:]))
        targets = getattr(self.data, "targets", None)
        ours = getattr(type(self.data).__getitem__, "__module__", "").startswith("mtlfast.train.")
        if not ours or not isinstance(targets, Mapping):
            return None
        return None, {name: target[rows] for name, target in targets.items()}

    def shares(self, other: Rows) -> bool:
        """Whether a row is in both."""
        if self.data is not other.data:
            return False
        whole = isinstance(self.numbers, range) or isinstance(other.numbers, range)
        return whole or not set(self.numbers).isdisjoint(other.numbers)


def _as_it_is(batch: Any) -> Any:
    """Collates what was gathered at once."""
    return batch


def _sampled(role: str, loader: DataLoader[Any]) -> Any:
    """Returns the rows of a DataLoader's sampler, where they are the same in every epoch.

    Raises:
        ValueError: where they are not, or batches are not formed by a batch size.
    """
    batches = loader.batch_sampler
    plain = type(batches) is BatchSampler
    sampler: Any = getattr(batches, "sampler", None) if plain else batches
    if plain and isinstance(sampler, list | tuple | range | Tensor | np.ndarray):
        return sampler
    if type(sampler) is SubsetRandomSampler:
        return sampler.indices
    if type(sampler) in (SequentialSampler, RandomSampler):
        rows = range(len(sampler.data_source))
        if len(sampler) == len(rows) and not getattr(sampler, "replacement", False):
            return rows
    got = "batch_size=None" if sampler is None else type(sampler).__name__
    raise ValueError(
        f"{role} must have the same rows in every epoch; got a DataLoader with {got}: pass the "
        "data set itself, or a torch.utils.data.Subset of the rows to read."
    )


def _chosen(what: str, rows: Any, numbers: Sequence[int]) -> Sequence[int]:
    """Returns those of the numbers that stand in the rows chosen.

    Raises:
        ValueError: for what is no row.
    """
    if isinstance(rows, range) and rows == range(len(numbers)):
        return numbers
    found = np.asarray(rows)
    if found.size and (found.dtype.kind not in "iu" or found.ndim != 1):
        mask = ": for a mask pass mask.nonzero()" if found.dtype.kind == "b" else ""
        raise ValueError(f"{what} must hold row numbers; got {found.dtype}{mask}.")
    wrong = (found < -len(numbers)) | (found >= len(numbers))
    if wrong.any():
        raise ValueError(f"{what} must hold rows below {len(numbers)}; got {found[wrong][0]}.")
    return [numbers[row] for row in found.tolist()]


Data = Dataset[Any] | DataLoader[Any] | TaskDatasets
