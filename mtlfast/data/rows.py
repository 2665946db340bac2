"""The rows of a data set that are read, and the one form in which batches of them come."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
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
    get_worker_info,
)

from mtlfast.data.images import Images
from mtlfast.data.samples import Samples

__all__ = ["Rows"]

LENT = ("num_workers", "collate_fn", "worker_init_fn", "pin_memory", "multiprocessing_context")
Pair = tuple[Any, dict[str, Any]]


class Rows(Dataset[Any]):
    """The rows of a data set that are read: all of them, or those of Subsets and of a sampler.

    An item, and a batch alike, is ``(input, {target name: labels})``; or ``(input, labels)`` where
    there is one target; or a mapping that holds input and labels by name. Where a mapping holds
    more than one entry that is no target, the input is the mapping of those. What comes from here
    is always the first of these.

    Args:
        role: what the data set is for, for messages.
        given: a data set with a length; or a DataLoader, which lends its data set, its workers and
            collate function, and of its sampler the rows, not their order.
        targets: the names of the labels.
        labelled: whether items must come with labels.

    Attributes:
        data: what holds the rows, below DataLoader and Subsets.
        numbers: of the rows in it, in order.
        options: what a DataLoader lends.

    Raises:
        ValueError: for what has no length or no items by index, for no rows, or for a sampler that
            is not a fixed list of rows.

    Example:
        >>> half = Subset(Samples(torch.eye(4), {"kind": torch.arange(4)}), [3, 1])
        >>> rows = Rows("dataset", DataLoader(half, sampler=[1]), ["kind"])
        >>> rows.numbers, rows.held()
        ([1], {'kind': tensor([1])})
    """

    def __init__(
        self, role: str, given: Any, targets: Collection[str], *, labelled: bool = True
    ) -> None:
        self.role, self.targets, self.labelled = role, targets, labelled
        self.options: dict[str, Any] = {"collate_fn": default_collate}
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
        other = isinstance(self.data, type | IterableDataset) or hasattr(self.data, "keys")
        if other or not indexed:
            raise ValueError(
                f"{role} must be a data set with a length and items by index; "
                f"got {type(self.data).__name__}."
            )
        self.numbers = range(len(self.data))
        for what, rows in reversed(chosen):
            self.numbers = _chosen(what, rows, self.numbers)
        if not len(self.numbers):
            raise ValueError(f"{role} must hold at least one sample; got none.")
        self.gathers = (
            isinstance(self.data, Samples) and self.options["collate_fn"] is default_collate
        )
        if self.gathers:
            self.options["collate_fn"] = _as_it_is

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitems__(self, keyed: tuple[int, list[int]]) -> Any:
        """Returns the samples of a batch, as they are collated, for a key and indices.

        In a worker the key seeds all random generators, so that what is drawn for a batch depends
        neither on the number of workers nor on where a run was interrupted.
        """
        key, indices = keyed
        if get_worker_info() is not None:
            set_seed(key)
        rows = [self.numbers[index] for index in indices]
        if self.gathers:
            return self.data[torch.as_tensor(rows)]
        together = getattr(self.data, "__getitems__", None)
        return [self.data[row] for row in rows] if together is None else together(rows)

    def item(self) -> Pair:
        """Returns the first sample, before it is collated."""
        return self._pair(self.data[self.numbers[0]])

    def first(self) -> Pair:
        """Returns a batch of the first samples, two at most, read without workers."""
        raw = self.__getitems__((0, list(range(min(2, len(self))))))
        return self._pair(self.options["collate_fn"](raw))

    def load(self, batches: Iterable[list[int]], seed: Sequence[int]) -> Iterator[Pair]:
        """Yields batches.

        Args:
            batches: the indices of each.
            seed: seeds what a worker draws at random for a batch, together with its indices.
        """
        keyed: Any = ((zlib.crc32(repr((*seed, chosen)).encode()), chosen) for chosen in batches)
        # A generator of its own: the loader would draw its base seed from the global one.
        loader = DataLoader(self, batch_sampler=keyed, generator=torch.Generator(), **self.options)
        return map(self._pair, loader)

    def held(self) -> dict[str, Any] | None:
        """Returns the labels of all rows, where they lie in memory."""
        rows = slice(None) if isinstance(self.numbers, range) else torch.as_tensor(self.numbers)
        if type(self.data) is TensorDataset:
            return self._pair((None, *(tensor[rows] for tensor in self.data.tensors[1:])))[1]
        # A child may read other rows, or labels, than it was given.
        if getattr(type(self.data), "__getitem__", None) in (
            Samples.__getitem__,
            Images.__getitem__,
        ):
            return {name: target[rows] for name, target in self.data.targets.items()}
        return None

    def shares(self, other: Rows) -> bool:
        """Whether a row is in both."""
        if self.data is not other.data:
            return False
        whole = isinstance(self.numbers, range) or isinstance(other.numbers, range)
        return whole or not set(self.numbers).isdisjoint(other.numbers)

    def _pair(self, raw: Any) -> Pair:
        """Returns a batch, or an item, in the one form that training uses."""
        names = self.targets
        if isinstance(raw, Mapping):
            rest = {name: part for name, part in raw.items() if name not in names}
            inputs = next(iter(rest.values())) if len(rest) == 1 else rest
            return inputs, {name: raw[name] for name in names if name in raw}
        row = isinstance(raw, tuple | list)
        if row and len(raw) == 2:
            if isinstance(raw[1], Mapping):
                return raw[0], dict(raw[1])
            if len(names) == 1 and not isinstance(raw[1], tuple | list):
                return raw[0], dict.fromkeys(names, torch.as_tensor(raw[1]))
        if not self.labelled:
            return raw[0] if row and len(raw) == 1 else raw, {}
        shown = f"{len(raw)} values" if row else type(raw).__name__
        raise ValueError(
            f"{self.role} must yield (input, {{target name: labels}}), or (input, labels) where "
            f"there is one target, or a mapping; got {shown}."
        )


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
