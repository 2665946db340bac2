"""The data sets one can train on besides any map-style data set or DataLoader of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtlfast.train.sampler import SAMPLINGS

__all__ = ["Data", "Samples", "TaskDatasets"]


class Samples(Dataset[Any]):
    """A data set held in tensors.

    Args:
        inputs: (N, ...) inputs.
        targets: by name, (N,) or (N, T) labels; missing ones are NaN or negative.

    Raises:
        ValueError: where a target has not N rows.

    Example:
        >>> import torch
        >>> data = Samples(torch.zeros(3, 8), {"kind": torch.tensor([0, 2, -1])})
        >>> len(data), data[1][1]
        (3, {'kind': tensor(2)})
    """

    def __init__(self, inputs: Tensor, targets: Mapping[str, Tensor]) -> None:
        inputs = torch.as_tensor(inputs)
        targets = {name: torch.as_tensor(target) for name, target in targets.items()}
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

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        return self[torch.as_tensor(indices)]

    @staticmethod
    def collate(batch: Any) -> Any:
        """Returns the batch, which ``__getitems__`` has gathered at once."""
        return batch


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
        if not datasets:
            raise ValueError("datasets must hold at least one data set; got none.")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}.")
        self.datasets, self.sampling = dict(datasets), sampling


Data = Dataset[Any] | DataLoader[Any] | TaskDatasets
