"""A user's tables of numbers and labels, npz and CSV files, as data sets.

A label is missing where a CSV file says '?' or nothing; it is NaN then. npz files hold labels as
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
from torch import Tensor

from mtlfast.data.floats import OTHER_UNIT, float32, warn_merged
from mtlfast.data.npz import read_arrays, texts
from mtlfast.data.samples import Table, numbered
from mtlfast.data.text import read_cells

__all__ = ["choose", "find_table", "read_table"]

Columns = Sequence[str] | str | int
# Inputs and the names of their columns, labels and the names of theirs, and the split.
Read = tuple[np.ndarray, Sequence[str], Tensor, list[str], Sequence[str] | None]
# What an npz file may call its inputs, labels, and the names of these.
NAMES = (("X", "fp_packed"), ("Y", "labels"), ("task_names", "label_names"))


def read_table(
    path: str | Path,
    labels: Columns | None = None,
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
    file = find_table(Path(path))
    read = _read_npz if file.suffix.lower() == ".npz" else _read_csv
    x, columns, y, names, split = read(file, labels, inputs)
    if not len(x):
        raise ValueError(f"{file} must hold at least one row; got none.")
    numpy = np.float64 if dtype == torch.float64 else np.float32
    apart = "standardise them first (read_table with dtype=torch.float64)"
    warn_merged(str(file), x, columns, apart, numpy)
    features = torch.from_numpy(np.ascontiguousarray(x, dtype=numpy))
    return Table(features, y, names, split, sliced=sliced)


def _read_npz(file: Path, labels: Columns | None, inputs: Any) -> Read:
    if inputs is not None:
        got = type(inputs).__name__
        raise ValueError(
            f"{file}: inputs must be None, as they name columns of a CSV file; got {got}."
        )
    arrays, there = read_arrays(file, [*(name for names in NAMES for name in names), "split"])
    x_name, y_name, named = (next((n for n in names if n in arrays), "") for names in NAMES)
    if not (x_name and y_name):
        wanted = "X or fp_packed, and Y or labels"
        raise ValueError(f"{file} must hold {wanted}; it has {', '.join(there)}.")
    x, y = arrays[x_name], arrays[y_name]
    if x_name == "fp_packed":
        if x.ndim != 2 or x.dtype != np.uint8:
            wanted = "uint8 of two dimensions, as by np.packbits"
            raise ValueError(f"{file}: {x_name} must be {wanted}; got {x.dtype} of {x.shape}.")
        x = np.unpackbits(x, axis=1)
    if not x.ndim or y.ndim not in (1, 2):
        wanted = f"{x_name} must have rows, and {y_name} one or two dimensions"
        raise ValueError(f"{file}: {wanted}; got {x.shape} and {y.shape}.")
    x, y = (array[:, None] if array.ndim == 1 else array for array in (x, y))
    if len(x) != len(y):
        wanted = f"as many rows of {x_name} as of {y_name}"
        raise ValueError(f"{file} must hold {wanted}; got {len(x)} and {len(y)}.")
    split = texts(file, "split", arrays["split"]) if "split" in arrays else None
    if split is not None and len(split) != len(x):
        raise ValueError(f"{file}: split must have {len(x)} rows; got {len(split)}.")
    names = texts(file, named, arrays[named]) if named else numbered(y.shape[1])
    if len(names) != y.shape[1] or not names:
        raise ValueError(f"{file} must name {y.shape[1]} tasks; it names {len(names)}.")
    if len(set(names)) < len(names) or "" in names:
        odd = next(name for at, name in enumerate(names) if name in names[:at] or not name)
        raise ValueError(f"{file} must name tasks differently; got {odd!r} more than once, or ''.")
    chosen = names if labels is None else choose(file, names, labels)
    y = y[:, [names.index(name) for name in chosen]]
    held = float32(file, y_name, y, chosen, missing=True)
    if y.dtype.kind == "f":
        warn_merged(f"{file}: {y_name}", y, chosen, OTHER_UNIT)
        y = held
    elif y.dtype.kind == "u" and y.dtype != np.uint8:
        if y.size and y.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{file}: {y_name} must hold integers below 2**63; got {y.max()}.")
        y = y.astype(np.int64)
    float32(file, x_name, x)
    return x, (), torch.from_numpy(y), chosen, split


def _read_csv(file: Path, labels: Columns | None, inputs: Sequence[str] | None) -> Read:
    if labels is None:
        raise ValueError(f"labels must name the label columns of {file}; got None.")
    cells = read_cells(file)
    there = list(cells.columns)
    chosen = choose(file, [name for name in there if name != "split"], labels)
    rest = [name for name in there if name not in ("split", *chosen)]
    columns = rest if inputs is None else choose(file, there, inputs)
    if both := [name for name in columns if name in chosen]:
        raise ValueError(f"{file}: inputs must not name label columns; got {both[0]!r}.")
    y = cells.labels(chosen)
    return cells.numbers(columns), columns, y, chosen, cells.columns.get("split")


def find_table(path: Path) -> Path:
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


def choose(file: Path, names: Sequence[str], columns: Columns) -> list[str]:
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
