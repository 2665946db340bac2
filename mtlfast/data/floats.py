"""What becomes of numbers in float32: some it cannot hold, others become one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LARGEST", "OTHER_UNIT", "float32", "merged", "warn_merged"]

LARGEST = float(np.finfo(np.float32).max)
OTHER_UNIT = "give the labels in another unit, or count them from another zero"


def float32(
    file: Path, name: str, array: np.ndarray, columns: Sequence[str] = (), *, missing: bool = False
) -> np.ndarray:
    """Returns an array of an npz file as float32.

    Args:
        file: the file, for messages.
        name: of the array.
        array: (N, ...) numbers.
        columns: names of its columns, for messages.
        missing: whether NaN stands for what is missing.

    Raises:
        ValueError: for what are no numbers, or the first cell that is not finite in float32.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{file}: {name} must hold real numbers; got {array.dtype}.")
    with np.errstate(over="ignore"):
        held = array.astype(np.float32)
    wrong = ~np.isfinite(held)
    if missing and array.dtype.kind == "f":
        wrong &= ~np.isnan(array)
    if wrong.any():
        cell = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = f"{name}[{', '.join(map(str, cell))}]"
        place += f" ({columns[cell[1]]!r})" if columns else ""
        wanted = f"a number that float32 holds{', or NaN where missing' if missing else ''}"
        raise ValueError(f"{file}: {place} must be {wanted}; got {array[cell]}.")
    return held


def merged(values: np.ndarray, dtype: Any = np.float32) -> dict[int, tuple[Any, Any]]:
    """Returns the columns in which distinct numbers become one in ``dtype``, and two such numbers.

    Where they are not whole, the last digits of a hundredth of the distinct numbers may be lost:
    those are noise.

    Example:
        >>> merged(np.array([[1700000001, 0.1], [1700000050, 0.2]]))
        {0: (1700000001.0, 1700000050.0)}
    """
    flat, found = values.reshape(len(values), -1), {}
    with np.errstate(invalid="ignore"):
        there = np.isfinite(flat) if flat.dtype.kind == "f" else np.ones(flat.shape, dtype=bool)
        changed = (flat.astype(dtype).astype(flat.dtype) != flat) & there
    for column in np.flatnonzero(changed.any(0)):
        distinct = np.unique(flat[there[:, column], column])
        same = np.flatnonzero(np.diff(distinct.astype(dtype)) == 0)
        whole = distinct.dtype.kind != "f" or (distinct == np.floor(distinct)).all()
        if len(same) > (0 if whole else len(distinct) // 100):
            found[int(column)] = distinct[same[0]].item(), distinct[same[0] + 1].item()
    return found


def warn_merged(
    what: str, values: np.ndarray, names: Sequence[str], remedy: str, dtype: Any = np.float32
) -> None:
    """Warns of the columns in which distinct numbers become one in ``dtype``."""
    columns = merged(values, dtype)
    if columns:
        first, (one, other) = next(iter(columns.items()))
        shown = repr(names[first]) if names else first
        more = f" (and {len(columns) - 1} more columns)" if len(columns) > 1 else ""
        warnings.warn(
            f"{what}, column {shown}{more}: different numbers, as {one!r} and {other!r}, become "
            f"one in {np.dtype(dtype)}; {remedy}.",
            stacklevel=3,
        )
