"""Data sets of image files, which are read when asked for, and the lists and tables that name them.

A label is missing where a file says '?' or nothing; it is NaN then.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtlfast.data.samples import by_name, numbered
from mtlfast.data.tables import choose, find_table
from mtlfast.data.text import Cells, read_cells, read_lines
from mtlfast.writing import brief

__all__ = ["Images", "read_folder", "read_list"]

Size = int | tuple[int, int] | None


class Shown(TypedDict, total=False):
    """How images come; see ``Images``."""

    grey: bool
    size: Size
    sliced: bool


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
        self.targets = by_name(labels, names, sliced)
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


def _eight_bits(image: Any) -> Any:
    """Returns an image of PIL with at most 8 bits a channel; PIL itself would clip 16."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"it has pixels of mode {image.mode}, not of 8 or 16 bits")
    return image


def read_list(
    path: str | Path,
    root: str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    **shown: Unpack[Shown],
) -> Images:
    """Returns the images of a text list: a line ``path l1 l2 ... ln`` for each, as Caffe's.

    Args:
        path: the list.
        root: what the paths are relative to; by default the list's folder.
        names: of the n tasks; by default label1, label2 and so on.
        shown: ``grey``, ``size`` and ``sliced`` as for ``Images``.

    Raises:
        ValueError: for a list that is not there, a line of other length or with a label that is no
            number, or an image that is not there; it names the line.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (8, 4)).save("dark.png")
        >>> written = Path("list.txt").write_text("dark.png 0 7")
        >>> read_list("list.txt", names=["bright", "kind"])[0][1]
        {'labels': tensor([0., 7.])}
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"a list of images must be a text file; there is none at {file}.")
    images, cells = read_lines(file)
    paths = _paths(file.parent if root is None else Path(root), images, cells)
    labels = cells.labels(list(cells.columns))
    called = numbered(labels.shape[1]) if names is None else names
    return Images(paths, labels, called, **shown)


def read_folder(
    folder: str | Path,
    table: str | Path,
    labels: Sequence[str] | None = None,
    **shown: Unpack[Shown],
) -> Images:
    r"""Returns the images of a folder with the labels of a CSV table.

    Args:
        folder: of the images.
        table: a CSV file, in the folder or elsewhere: file names in its first column.
        labels: names of the label columns; by default all but the first.
        shown: ``grey``, ``size`` and ``sliced`` as for ``Images``.

    Raises:
        ValueError: as ``read_table``, and for an image that is not there.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (8, 4)).save("dark.png")
        >>> written = Path("labels.csv").write_text("file,bright,kind\ndark.png,0,7\n")
        >>> read_folder(".", "labels.csv", ["kind"])[0][1]
        {'labels': tensor([7.])}
    """
    file = Path(folder, table)
    if not file.is_file() and Path(table).is_file():
        file = Path(table)
    cells = read_cells(find_table(file), nameless=True)
    first, *rest = cells.columns
    paths = _paths(Path(folder), cells.columns[first], cells)
    chosen = rest if labels is None else choose(file, rest, labels)
    return Images(paths, cells.labels(chosen), chosen, **shown)


def _paths(base: Path, images: Sequence[str], cells: Cells) -> list[Path]:
    paths = [base / image.strip() for image in images]
    for row, path in enumerate(paths):
        if not path.is_file():
            raise ValueError(f"{cells.row(row)}: there is no image {path}.")
    return paths
