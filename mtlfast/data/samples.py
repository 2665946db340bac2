"""Data sets held in tensors: samples, tables in parts, and several data sets for several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtlfast.data.sampler import SAMPLINGS
from mtlfast.functional.checks import check_choice, check_kinds

__all__ = ["Data", "Samples", "Table", "TaskDatasets", "by_name", "numbered"]

SPLITS = ("index", "random", "given")
# What a column `split` may hold; two numbers are training and test.
PARTS = {
    "train": {"0", "train", "training"},
    "validation": {"1", "valid", "validation", "val", "dev"},
    "test": {"2", "test"},
}


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
        self.inputs = _tensor("inputs", inputs)
        self.targets = {name: _tensor(f"target {name!r}", y) for name, y in targets.items()}
        for name, target in self.targets.items():
            if len(target) != len(self):
                raise ValueError(f"target {name!r} must have {len(self)} rows; got {len(target)}.")

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.inputs[index], {name: target[index] for name, target in self.targets.items()}


class Table(Samples):
    """A table in memory.

    Args:
        inputs: (N, ...) inputs.
        labels: (N, T) labels.
        names: of the T tasks.
        split: (N,) which part a row belongs to, or None.
        sliced: whether the labels of each task are a target of its name; else they are one target,
            ``"labels"``.

    Attributes:
        names: of the T tasks.
        labels: (N, T).
        split: (N,) or None.

    Raises:
        ValueError: where inputs, labels, names and split do not fit.

    Example:
        >>> labels, split = torch.tensor([[1], [0], [1]]), ["train", "train", "test"]
        >>> table = Table(torch.eye(3), labels, ["kind"], split)
        >>> table[0]
        (tensor([1., 0., 0.]), {'labels': tensor([1])})
        >>> {name: part and len(part) for name, part in table.parts("given").items()}
        {'train': 2, 'weight_data': None, 'validation': None, 'test': 1}
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        names: Sequence[str],
        split: Sequence[Any] | None = None,
        *,
        sliced: bool = False,
    ) -> None:
        super().__init__(inputs, by_name(labels, names, sliced))
        if split is not None and len(split) != len(inputs):
            raise ValueError(f"split must have {len(inputs)} rows; got {len(split)}.")
        self.names, self.labels = list(names), labels
        self.split = None if split is None else [str(part) for part in split]

    def parts(
        self, split: str = "index", seed: int = 0, *, weight_data: bool = False
    ) -> dict[str, Samples | None]:
        """Returns the parts ``train``, ``weight_data``, ``validation`` and ``test``.

        Args:
            split: ``"index"`` cuts 80/10/10 % in the order of the file, ``"random"`` in an order
                drawn from ``seed``; ``"given"`` goes by the file's own ``split``: two numbers mean
                training and test, three validation between them.
            seed: see above.
            weight_data: whether every tenth training row is set apart for an adaptive weighting.

        Raises:
            ValueError: for an unknown split, or none given.
        """
        check_choice("split", split, SPLITS)
        count = len(self)
        if split == "given":
            rows = self._given()
        else:
            drawn = np.random.default_rng(seed).permutation(count)
            order = drawn if split == "random" else np.arange(count)
            cuts = (count * 8 // 10, count * 9 // 10)
            rows = dict(zip(PARTS, np.split(order, cuts), strict=True))
        if weight_data:
            train, apart = rows["train"], np.arange(len(rows["train"])) % 10 == 9
            rows["train"], rows["weight_data"] = train[~apart], train[apart]
        wanted = ("train", "weight_data", "validation", "test")
        return {
            name: Samples(*self[torch.from_numpy(rows[name])]) if name in rows else None
            for name in wanted
        }

    def _given(self) -> dict[str, np.ndarray]:
        if self.split is None:
            raise ValueError("split 'given' needs a split in the table; use 'index' or 'random'.")
        words = np.array([word.strip().lower().removesuffix(".0") for word in self.split])
        kinds = PARTS | {"validation": set(), "test": {"1"}} if set(words) == {"0", "1"} else PARTS
        if unknown := sorted(set(words.tolist()).difference(*kinds.values())):
            known = "0, 1 and 2 or train, validation and test"
            raise ValueError(f"a table's split must hold {known}; got {unknown[0]!r}.")
        rows = {name: np.flatnonzero(np.isin(words, list(kinds[name]))) for name in PARTS}
        there = {name: found for name, found in rows.items() if len(found)}
        if not {"train", "test"} <= there.keys():
            raise ValueError(f"a table's split must have train and test; got {', '.join(there)}.")
        return there


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
        check_choice("sampling", sampling, SAMPLINGS)
        self.datasets, self.sampling = dict(datasets), sampling


Data = Dataset[Any] | DataLoader[Any] | TaskDatasets


def by_name(labels: Tensor, names: Sequence[str], sliced: bool) -> dict[str, Tensor]:
    """Returns labels (N, T) as targets: of T names where they are ``sliced``, else as one."""
    if labels.dim() != 2 or labels.shape[1] != len(names):
        raise ValueError(f"labels must be (N, {len(names)}); got {tuple(labels.shape)}.")
    return dict(zip(names, labels.unbind(1), strict=True)) if sliced else {"labels": labels}


def numbered(count: int) -> list[str]:
    """Returns names for tasks without any."""
    return [f"label{number}" for number in range(1, count + 1)]


def _tensor(what: str, given: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(given)
    except (RuntimeError, TypeError, ValueError) as error:
        got = type(given).__name__
        raise TypeError(f"{what} must be a tensor or an array of numbers; got {got}.") from error
    if not tensor.dim():
        raise ValueError(f"{what} must have a row for each sample; got one number.")
    return tensor
