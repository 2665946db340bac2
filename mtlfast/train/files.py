"""A user's ordinary files as data sets: tables, lists of images, folders of images with a table.

A label is missing where a file says '?' or nothing; it is NaN then. npz files hold labels as
training takes them: NaN, or a negative class, where one is missing.
"""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlfast.train.arrays import float32, read_arrays, texts, warn_merged
from mtlfast.train.cells import LARGEST, MISSING, is_number, numbers, read_cells, read_text
from mtlfast.train.datasets import Images, Size, Table

__all__ = ["read_folder", "read_list", "read_table"]

Columns = Sequence[str] | str | int | None
ARRAYS = ("X", "fp_packed", "Y", "labels", "task_names", "label_names", "split")
OTHER_UNIT = "give the labels in another unit, or count them from another zero"


def read_table(
    path: str | Path,
    labels: Columns = None,
    *,
    inputs: Sequence[str] | None = None,
    sliced: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Table:
    r"""Returns a table of numbers and labels from an npz or CSV file.

    An npz file holds ``X``, or ``fp_packed``, bits packed by np.packbits; ``Y`` or ``labels``; and
    maybe ``task_names`` or ``label_names``, and ``split``. A CSV file has a header, and maybe a
    column ``split``. It warns where different numbers of a column become one, and of a column that
    it leaves out.

    Args:
        path: the file, or a folder that holds one such file.
        labels: names of the label columns, as a list or in one text with commas, or their number:
            the last n, or the first n of -n. An npz file does without: all that it calls labels.
        inputs: names of a CSV file's input columns; by default all that are not labels.
        sliced: as for ``Table``.
        dtype: of the inputs. ``torch.float64`` keeps time stamps and ids apart that are one number
            in float32, until they are standardised.

    Raises:
        ValueError: for a file without these columns, or with a token that is no number, or none
            that float32 holds; it names the row (from 1, without the header), column and token.

    Example:
        >>> written = Path("table.csv").write_text("ink,tilt,kind\n0.5,0.1,3\n0.25,0.2,?\n")
        >>> read_table("table.csv", ["kind"])[1]
        (tensor([0.2500, 0.2000]), {'labels': tensor([nan])})
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64; got {dtype}.")
    file = _find_table(Path(path))
    read = _read_npz if file.suffix.lower() == ".npz" else _read_csv
    x, columns, y, names, split = read(file, labels, inputs)
    if not len(x):
        raise ValueError(f"{file} must hold at least one row; got none.")
    numpy = np.float64 if dtype == torch.float64 else np.float32
    apart = "standardise them first (read_table with dtype=torch.float64)"
    warn_merged(str(file), x, columns, apart, numpy)
    features = torch.from_numpy(np.ascontiguousarray(x, dtype=numpy))
    return Table(features, torch.from_numpy(y), names, split, sliced=sliced)


def _read_npz(file: Path, labels: Columns, inputs: Any) -> tuple[Any, Any, Any, list[str], Any]:
    """Returns the inputs and names of their columns, labels and names of theirs, and the split."""
    if inputs is not None:
        got = type(inputs).__name__
        raise ValueError(
            f"{file}: inputs must be None, as they name columns of a CSV file; got {got}."
        )
    arrays, there = read_arrays(file, ARRAYS)
    if not (arrays.keys() & {"X", "fp_packed"} and arrays.keys() & {"Y", "labels"}):
        wanted = "X or fp_packed, and Y or labels"
        raise ValueError(f"{file} must hold {wanted}; it has {', '.join(there)}.")
    called, label = "X" if "X" in arrays else "fp_packed", "Y" if "Y" in arrays else "labels"
    x, y = arrays[called], arrays[label]
    if called == "fp_packed":
        if x.ndim != 2 or x.dtype != np.uint8:
            wanted = "uint8 of two dimensions, as by np.packbits"
            raise ValueError(f"{file}: {called} must be {wanted}; got {x.dtype} of {x.shape}.")
        x = np.unpackbits(x, axis=1)
    if not x.ndim or y.ndim not in (1, 2):
        wanted = f"{called} must have rows, and {label} one or two dimensions"
        raise ValueError(f"{file}: {wanted}; got {x.shape} and {y.shape}.")
    x, y = (array[:, None] if array.ndim == 1 else array for array in (x, y))
    if len(x) != len(y):
        wanted = f"as many rows of {called} as of {label}"
        raise ValueError(f"{file} must hold {wanted}; got {len(x)} and {len(y)}.")
    named = next((name for name in ("task_names", "label_names") if name in arrays), None)
    names = _numbered(y.shape[1]) if named is None else texts(file, named, arrays[named])
    if len(names) != y.shape[1] or not names:
        raise ValueError(f"{file} must name {y.shape[1]} tasks; it names {len(names)}.")
    if len(set(names)) < len(names) or "" in names:
        odd = next(name for at, name in enumerate(names) if name in names[:at] or not name)
        raise ValueError(f"{file} must name tasks differently; got {odd!r} more than once, or ''.")
    split = texts(file, "split", arrays["split"]) if "split" in arrays else None
    if split is not None and len(split) != len(x):
        raise ValueError(f"{file}: split must have {len(x)} rows; got {len(split)}.")
    chosen = _choose(file, names, len(names) if labels is None else labels)
    y = y[:, [names.index(name) for name in chosen]]
    held = float32(file, label, y, chosen, missing=True)
    if y.dtype.kind == "f":
        warn_merged(f"{file}: {label}", y, chosen, OTHER_UNIT)
        y = held
    elif y.dtype.kind == "u" and y.dtype != np.uint8:
        if y.size and y.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{file}: {label} must hold integers below 2**63; got {y.max()}.")
        y = y.astype(np.int64)
    float32(file, called, x)
    return x, (), y, chosen, split


def _read_csv(file: Path, labels: Columns, inputs: Any) -> tuple[Any, Any, Any, list[str], Any]:
    """Returns the inputs and names of their columns, labels and names of theirs, and the split."""
    cells = read_cells(file)
    if labels is None:
        raise ValueError(f"labels must name the label columns of {file}; got None.")
    chosen = _choose(file, [name for name in cells if name != "split"], labels)
    rest = [name for name in cells if name not in ("split", *chosen)]
    columns = rest if inputs is None else _choose(file, list(cells), inputs)
    if both := [name for name in columns if name in chosen]:
        raise ValueError(f"{file}: inputs must not name label columns; got {both[0]!r}.")
    y = numbers(file, cells, chosen, missing=True)
    warn_merged(str(file), y, chosen, OTHER_UNIT)
    x = numbers(file, cells, columns)
    return x, columns, y.astype(np.float32), chosen, cells.get("split")


def read_list(
    path: str | Path,
    root: str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    grey: bool = False,
    size: Size = None,
    sliced: bool = False,
) -> Images:
    """Returns the images of a text list: a line ``path l1 l2 ... ln`` for each, as Caffe's.

    Args:
        path: the list.
        root: what the paths are relative to; by default the list's folder.
        names: of the n tasks; by default label1, label2 and so on.
        grey: as for ``Images``, like those that follow.
        size: see there.
        sliced: see there.

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
    base = file.parent if root is None else Path(root)
    lines = enumerate(read_text(file).split("\n"), 1)
    fields = [(number, line.split()) for number, line in lines if line.strip()]
    width = len(fields[0][1]) if fields else 0
    if width < 2:
        raise ValueError(f"{file} must hold lines 'path l1 l2 ... ln'; its first has no label.")
    labels = np.full((len(fields), width - 1), np.nan)
    for row, (number, (image, *tokens)) in enumerate(fields):
        if len(tokens) != width - 1:
            raise ValueError(
                f"{file}, line {number}: must have {width - 1} labels; got {len(tokens)}."
            )
        for column, token in enumerate(tokens, 1):
            if token in MISSING:
                continue
            value = float(token) if is_number(token) else np.inf
            if abs(value) > LARGEST:
                wanted = "must be a number, or '?'" + ", at most 3.4e38" * is_number(token)
                raise ValueError(f"{file}, line {number}, label {column}: {wanted}; got {token!r}.")
            labels[row, column - 1] = value
        if not (base / image).is_file():
            raise ValueError(f"{file}, line {number}: there is no image {base / image}.")
    paths = [base / line[0] for _, line in fields]
    called = _numbered(width - 1) if names is None else names
    warn_merged(str(file), labels, called, OTHER_UNIT)
    y = torch.from_numpy(labels.astype(np.float32))
    return Images(paths, y, called, grey=grey, size=size, sliced=sliced)


def read_folder(
    folder: str | Path,
    table: str | Path,
    labels: Sequence[str] | None = None,
    *,
    grey: bool = False,
    size: Size = None,
    sliced: bool = False,
) -> Images:
    r"""Returns the images of a folder with the labels of a CSV table.

    Args:
        folder: of the images.
        table: a CSV file, in the folder or elsewhere: file names in its first column.
        labels: names of the label columns; by default all but the first.
        grey: as for ``Images``, like those that follow.
        size: see there.
        sliced: see there.

    Raises:
        ValueError: as ``read_table``, and for an image that is not there.

    Example:
        >>> from PIL import Image
        >>> Image.new("L", (8, 4)).save("dark.png")
        >>> written = Path("labels.csv").write_text("file,bright,kind\ndark.png,0,7\n")
        >>> read_folder(".", "labels.csv", ["kind"])[0][1]
        {'labels': tensor([7.])}
    """
    base, file = Path(folder), Path(folder, table)
    if not file.is_file() and Path(table).is_file():
        file = Path(table)
    cells = read_cells(_find_table(file), nameless=True)
    first, *rest = cells
    chosen = rest if labels is None else _choose(file, rest, labels)
    paths = [base / name.strip() for name in cells[first]]
    for row, image in enumerate(paths, 1):
        if not image.is_file():
            raise ValueError(f"{file}, row {row}: there is no image {image}.")
    values = numbers(file, cells, chosen, missing=True)
    warn_merged(str(file), values, chosen, OTHER_UNIT)
    y = torch.from_numpy(values.astype(np.float32))
    return Images(paths, y, chosen, grey=grey, size=size, sliced=sliced)


def _numbered(count: int) -> list[str]:
    return [f"label{number}" for number in range(1, count + 1)]


def _find_table(path: Path) -> Path:
    """Returns the table that a path names, or the only one in its folder."""
    suffixes = (".npz", ".csv")
    wanted = "a table must be an .npz or .csv file, or a folder with one"
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        found = [file for file in files if file.suffix.lower() in suffixes]
        if len(found) == 1:
            return found[0]
        there = ", ".join(file.name for file in found or files) or "no file"
        raise ValueError(f"{wanted}; got {path}, which holds {there}.")
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise ValueError(f"{wanted}; got {path}, which {what}.")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{wanted}; got {path}.")
    return path


def _choose(file: Path, names: Sequence[str], columns: Sequence[str] | str | int) -> list[str]:
    """Returns the names that are meant: by themselves, in one text with commas, or by number."""
    if isinstance(columns, int):
        if not 0 < abs(columns) <= len(names):
            raise ValueError(f"{file} has {len(names)} columns to choose from; got {columns}.")
        return list(names[-columns:] if columns > 0 else names[:-columns])
    if isinstance(columns, str):
        # A name may hold commas itself, and quotes keep it whole among others.
        whole = columns in names
        columns = [columns] if whole else next(csv.reader([columns], skipinitialspace=True), [])
    if unknown := [name for name in columns if name not in names]:
        there = textwrap.shorten(", ".join(names), 400)
        raise ValueError(f"{file} has no column {unknown[0]!r}; it has {there}.")
    if len(set(columns)) < len(columns):
        raise ValueError(f"{file}: a column must be named once; got {', '.join(columns)}.")
    return list(columns)
