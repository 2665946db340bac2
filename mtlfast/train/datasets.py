"""Data sets of ordinary files: a table in memory, and image files that are read when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtlfast.train.data import Samples
from mtlfast.writing import brief

__all__ = ["Images", "Size", "Table"]

Size = int | tuple[int, int] | None
SPLITS = ("index", "random", "given")
# What a column `split` may hold; two numbers are training and test.
PARTS = {
    "train": {"0", "train", "training"},
    "validation": {"1", "valid", "validation", "val", "dev"},
    "test": {"2", "test"},
}


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
        super().__init__(inputs, _targets(labels, names, sliced))
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
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}.")
        if split == "given":
            rows = self._given()
        else:
            count = len(self)
            drawn = torch.from_numpy(np.random.default_rng(seed).permutation(count))
            order = drawn if split == "random" else torch.arange(count)
            cuts = (count * 8 // 10, count * 9 // 10)
            rows = dict(zip(PARTS, order.tensor_split(cuts), strict=True))
        if weight_data:
            apart = torch.arange(len(rows["train"])) % 10 == 9
            rows["weight_data"], rows["train"] = rows["train"][apart], rows["train"][~apart]
        wanted = ("train", "weight_data", "validation", "test")
        return {name: Samples(*self[rows[name]]) if name in rows else None for name in wanted}

    def _given(self) -> dict[str, Tensor]:
        if self.split is None:
            raise ValueError("split 'given' needs a split in the table; use 'index' or 'random'.")
        words = [word.strip().lower().removesuffix(".0") for word in self.split]
        kinds = PARTS | {"validation": set(), "test": {"1"}} if set(words) == {"0", "1"} else PARTS
        part_of = {word: name for name, known in kinds.items() for word in known}
        if unknown := sorted(set(words) - set(part_of)):
            known = "0, 1 and 2 or train, validation and test"
            raise ValueError(f"a table's split must hold {known}; got {unknown[0]!r}.")
        rows: dict[str, list[int]] = {}
        for row, word in enumerate(words):
            rows.setdefault(part_of[word], []).append(row)
        if "train" not in rows or "test" not in rows:
            raise ValueError(f"a table's split must have train and test; got {', '.join(rows)}.")
        return {name: torch.tensor(numbers) for name, numbers in rows.items()}


class Images(Dataset[Any]):
    """Image files and their labels; an item is read when it is asked for.

    An image is (C, H, W), from 0 to 1.

    Args:
        paths: of N images.
        labels: (N, T).
        names: of the T tasks.
        grey: whether images have one channel, else three.
        size: (height, width) they are brought to, or the side of a square; None: all must have one
            size.
        sliced: as for ``Table``.

    Raises:
        ValueError: without images, or where an image cannot be read.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (8, 4), color=51).save("grey.png")
        >>> images = Images(["grey.png"], torch.ones(1, 1), ["bright"], grey=True)
        >>> images[0][0].shape, images[0][1]
        (torch.Size([1, 4, 8]), {'labels': tensor([1.])})
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Tensor,
        names: Sequence[str],
        *,
        grey: bool = False,
        size: Size = None,
        sliced: bool = False,
    ) -> None:
        if not paths or len(paths) != len(labels):
            wanted = len(labels) or "at least one"
            raise ValueError(f"paths must be of {wanted} images; got {len(paths)}.")
        self.paths, self.labels, self.names = [Path(path) for path in paths], labels, list(names)
        self.targets = _targets(labels, names, sliced)
        self.grey, self.size = grey, (size, size) if isinstance(size, int) else size
        self.shape = tuple(self._read(self.paths[0]).shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = self._read(self.paths[index])
        if image.shape != self.shape:
            got = f"{tuple(image.shape[1:])} in {self.paths[index]}"
            raise ValueError(f"images must all be {self.shape[1:]}, or be given a size; got {got}.")
        return image, {name: target[index] for name, target in self.targets.items()}

    def _read(self, path: Path) -> Tensor:
        from PIL import Image

        try:
            if not path.is_file():  # a pipe would wait for its other end
                raise ValueError("it is no file" if path.exists() else "it is not there")
            with Image.open(path) as file:
                image = _eight_bits(file).convert("L" if self.grey else "RGB")
        except Exception as error:  # whatever decoders raise at a stranger's bytes
            raise ValueError(f"the image {path} cannot be read: {brief(error)}.") from error
        if self.size is not None:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
        return pixels.unsqueeze(0) if self.grey else pixels.movedim(-1, 0).contiguous()


def _targets(labels: Tensor, names: Sequence[str], sliced: bool) -> Mapping[str, Tensor]:
    if labels.dim() != 2 or labels.shape[1] != len(names):
        raise ValueError(f"labels must be (N, {len(names)}); got {tuple(labels.shape)}.")
    return dict(zip(names, labels.unbind(1), strict=True)) if sliced else {"labels": labels}


def _eight_bits(image: Any) -> Any:
    """Returns an image of PIL with at most 8 bits a channel; PIL itself would clip 16."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"it has pixels of mode {image.mode}, not of 8 or 16 bits")
    return image
