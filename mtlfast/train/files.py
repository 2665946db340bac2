"""A user's ordinary files as data sets: tables, lists of images, folders of images with a table.

A label is missing where a file says '?' or nothing; it is NaN then. npz files hold labels as
training takes them: NaN, or a negative integer, where one is missing.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlfast.train.datasets import Images, Size, Table

__all__ = ["read_folder", "read_list", "read_table"]

Columns = Sequence[str] | int | None
MISSING = ("?", "")


def read_table(
    path: str | Path,
    labels: Columns = None,
    *,
    inputs: Sequence[str] | None = None,
    sliced: bool = False,
) -> Table:
    r"""Returns a table of numbers and labels from an npz or CSV file.

    An npz file holds ``X``, or ``fp_packed``, bits packed by np.packbits; ``Y`` or ``labels``; and
    maybe ``task_names`` or ``label_names``, and ``split``. A CSV file has a header, and maybe a
    column ``split``.

    Args:
        path: the file, or a folder that holds one such file.
        labels: names of the label columns, or their number: the last n, or the first n of -n. An
            npz file does without: all that it calls labels.
        inputs: names of a CSV file's input columns; by default all that are not labels.
        sliced: as for ``Table``.

    Raises:
        ValueError: for a file without these columns, or with a token that is no number; it names
            the row (from 1, without the header), the column and the token.

    Example:
        >>> written = Path("table.csv").write_text("ink,tilt,kind\n0.5,0.1,3\n0.25,0.2,?\n")
        >>> read_table("table.csv", ["kind"])[1]
        (tensor([0.2500, 0.2000]), {'labels': tensor([nan])})
    """
    file = _find_table(Path(path))
    if file.suffix.lower() == ".npz":
        arrays = read_arrays(file)
        if not (arrays.keys() & {"X", "fp_packed"} and arrays.keys() & {"Y", "labels"}):
            wanted = "X or fp_packed, and Y or labels"
            raise ValueError(f"{file} must hold {wanted}; it has {', '.join(arrays)}.")
        packed = "X" not in arrays
        x = np.unpackbits(arrays["fp_packed"], axis=1) if packed else arrays["X"]
        y = arrays["Y"] if "Y" in arrays else arrays["labels"]
        y = y.reshape(len(y), -1)
        known = arrays.get("task_names", arrays.get("label_names"))
        names = _numbered(y.shape[1]) if known is None else [str(name) for name in known]
        if len(names) != y.shape[1]:
            raise ValueError(f"{file} must name {y.shape[1]} tasks; it names {len(names)}.")
        chosen = _choose(file, names, len(names) if labels is None else labels)
        y = y[:, [names.index(name) for name in chosen]]
        y = y if y.dtype.kind in "bi" or y.dtype == np.uint8 else y.astype(np.float32)
        split = arrays.get("split")
    else:
        frame = _frame(file)
        names = list(frame)
        if labels is None:
            raise ValueError(f"labels must name the label columns of {file}; got None.")
        chosen = _choose(file, [name for name in names if name != "split"], labels)
        rest = [name for name in names if name not in ("split", *chosen)]
        x = _numbers(file, frame, rest if inputs is None else _choose(file, names, inputs))
        y = _numbers(file, frame, chosen, missing=True)
        split = frame.get("split")
    features = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return Table(features, torch.from_numpy(y), chosen, split, sliced=sliced)


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
    lines = enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1)
    fields = [(number, line.split()) for number, line in lines if line.strip()]
    width = len(fields[0][1]) if fields else 0
    if width < 2:
        raise ValueError(f"{file} must hold lines 'path l1 l2 ... ln'; its first has no label.")
    for number, (image, *tokens) in fields:
        if len(tokens) != width - 1:
            raise ValueError(
                f"{file}, line {number}: must have {width - 1} labels; got {len(tokens)}."
            )
        for column, token in enumerate(tokens, 1):
            if token not in MISSING and not _is_number(token):
                wanted = "must be a number, or '?'"
                raise ValueError(f"{file}, line {number}, label {column}: {wanted}; got {token!r}.")
        if not (base / image).is_file():
            raise ValueError(f"{file}, line {number}: there is no image {base / image}.")
    labels = [[math.nan if t in MISSING else float(t) for t in line[1:]] for _, line in fields]
    paths = [base / line[0] for _, line in fields]
    called = _numbered(width - 1) if names is None else names
    return Images(paths, torch.tensor(labels), called, grey=grey, size=size, sliced=sliced)


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
    frame = _frame(_find_table(file))
    first, *rest = frame
    chosen = rest if labels is None else _choose(file, rest, labels)
    paths = [base / name.strip() for name in frame[first]]
    for row, image in enumerate(paths, 1):
        if not image.is_file():
            raise ValueError(f"{file}, row {row}: there is no image {image}.")
    y = torch.from_numpy(_numbers(file, frame, chosen, missing=True))
    return Images(paths, y, chosen, grey=grey, size=size, sliced=sliced)


def _numbered(count: int) -> list[str]:
    return [f"label{number}" for number in range(1, count + 1)]


def _is_number(token: str) -> bool:
    try:
        return math.isfinite(float(token))
    except ValueError:
        return False


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
        raise ValueError(f"{wanted}; got {path}, which does not exist.")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{wanted}; got {path}.")
    return path


def read_arrays(file: Path) -> dict[str, Any]:
    """Returns all that an npz file holds.

    Raises:
        ValueError: where it cannot be read, with its name.
    """
    try:
        with np.load(file) as archive:
            return dict(archive)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        wanted = "it must be an npz file of arrays, without pickled objects"
        raise ValueError(f"{file} cannot be read: {wanted}.") from error


def _frame(file: Path) -> Any:
    """Returns a CSV file as a pandas DataFrame of text."""
    import pandas

    text = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    try:
        cells = pandas.read_csv(file, header=None, skipinitialspace=True, **text)
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    names = [str(name).strip() for name in cells.iloc[0]]
    if len(set(names)) < len(names) or len(cells) < 2:
        got = f"{len(cells) - 1} rows and columns {', '.join(names)}"
        raise ValueError(f"{file} must have a header of different names, and rows; got {got}.")
    return cells.iloc[1:].set_axis(names, axis=1)


def _choose(file: Path, names: Sequence[str], columns: Sequence[str] | int) -> list[str]:
    """Returns the names that are meant, by themselves or by their number."""
    if isinstance(columns, int):
        if not 0 < abs(columns) <= len(names):
            raise ValueError(f"{file} has {len(names)} columns to choose from; got {columns}.")
        return list(names[-columns:] if columns > 0 else names[:-columns])
    if unknown := [name for name in columns if name not in names]:
        raise ValueError(f"{file} has no column {unknown[0]!r}; it has {', '.join(names)}.")
    return list(columns)


def _numbers(file: Path, frame: Any, names: Sequence[str], *, missing: bool = False) -> Any:
    """Returns columns as float32; where ``missing`` is allowed, it is NaN."""
    import pandas

    text, absent = frame[list(names)], np.zeros((len(frame), len(names)), dtype=bool)
    if missing:
        text = text.apply(lambda column: column.str.strip())
        absent = text.isin(MISSING).to_numpy(dtype=bool)
    try:
        values = np.where(absent, "nan", text.to_numpy(dtype=object)).astype(float)
    except ValueError:
        values = text.apply(pandas.to_numeric, errors="coerce").to_numpy(dtype=float)
    wrong = np.argwhere(~np.isfinite(values) & ~absent)
    if len(wrong):
        row, column = wrong[0]
        wanted = "a number, '?' or blank" if missing else "a number"
        place = f"{file}, row {row + 1}, column {names[column]!r}"
        raise ValueError(f"{place}: must be {wanted}; got {frame[names[column]].iloc[row]!r}.")
    return values.astype(np.float32)
