"""Reads the arrays of a recipe's data directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtlfast.train.files import read_arrays

__all__ = ["arrays"]

Arrays = dict[str, np.ndarray]


def arrays(data: str | Path, files: Sequence[str], names: Sequence[str]) -> list[Arrays]:
    """Returns the named arrays of each npz file in a directory.

    Args:
        data: the directory.
        files: what it must hold.
        names: the arrays that each file must hold, with as many rows as the first.

    Raises:
        ValueError: where a file or an array is missing, or the rows do not match, with its name.
    """
    missing = [name for name in files if not Path(data, name).is_file()]
    if missing:
        wanted, got = ", ".join(files), ", ".join(missing)
        raise ValueError(f"data must be a directory with {wanted}; {data} has no {got}.")
    return [_read(Path(data, name), names) for name in files]


def _read(path: Path, names: Sequence[str]) -> Arrays:
    held = read_arrays(path)
    found = {name: held[name] for name in names if name in held}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} must hold the arrays {', '.join(names)}; it has no {missing[0]}.")
    rows = {name: len(array) for name, array in found.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{path} must hold arrays with as many rows each; got {rows}.")
    return found
