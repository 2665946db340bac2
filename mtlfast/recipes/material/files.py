"""What recipes do with files: arrays of a data directory, and the parts of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlfast.data import float32, merged, read_arrays, warn_merged
from mtlfast.recipes.material.labels import check_answers
from mtlfast.train import read_table

__all__ = ["arrays", "grey", "read_parts", "standardise"]

Arrays = dict[str, np.ndarray]


def read_parts(
    data: Path,
    labels: Sequence[str] | str | int | None,
    split: str | None = None,
    seed: int = 0,
    *,
    sliced: bool = False,
    weight_data: bool = False,
    whole: bool = True,
) -> tuple[list[str], dict[str, Any]]:
    """Returns the names of a table's answers, and its parts with their inputs standardised.

    Args:
        data, labels, sliced: the table, see ``read_table``.
        split, seed, weight_data: how it is cut, see ``Table.parts``; by default as given in it, or
            by index.
        whole: see ``standardise``.

    Raises:
        ValueError: for labels that are no answers, and whatever reading and cutting refuse.
    """
    table = read_table(data, labels, sliced=sliced, dtype=torch.float64)
    check_answers(table, data)
    if split is None:
        split = "index" if table.split is None else "given"
    parts: dict[str, Any] = table.parts(split, seed, weight_data=weight_data)
    standardise(parts, data, whole=whole)
    return table.names, parts


def standardise(parts: Mapping[str, Any], where: Path, *, whole: bool = True) -> None:
    """Brings the inputs of all parts to mean 0 and deviation 1 of training, and then to float32.

    Args:
        parts: of a table whose inputs are float64; ``"train"`` among them, None where absent.
        where: the table, for the warning of numbers that even so become one.
        whole: whether all columns; else those alone whose numbers would become one in float32.
    """
    there = [part for part in parts.values() if part is not None]
    train, values = parts["train"].inputs, torch.cat([part.inputs for part in there])
    deviation, mean = torch.std_mean(train, 0, correction=min(1, len(train) - 1))
    # Of a constant column the deviation is the rounding of its mean.
    deviation = torch.where(deviation > 1e-12 * mean.abs(), deviation, 1.0)
    if not whole:
        moved = torch.zeros(mean.numel(), dtype=torch.bool)
        moved[list(merged(values.numpy()))] = True
        moved = moved.reshape(mean.shape)
        mean, deviation = torch.where(moved, mean, 0.0), torch.where(moved, deviation, 1.0)
    values = (values - mean) / deviation
    warn_merged(str(where), values.numpy(), (), "leave it out, or count it in another unit")
    for part, inputs in zip(there, values.float().split([len(p) for p in there]), strict=True):
        part.inputs = inputs


def grey(images: np.ndarray) -> Tensor:
    """Returns bytes (N, H, W) as images (N, 1, H, W), grey around 0."""
    return torch.from_numpy(images).unsqueeze(1).float() / 255 - 0.5


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
    found, _ = read_arrays(path, names)
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} must hold the arrays {', '.join(names)}; it has no {missing[0]}.")
    rows = {name: len(array) if array.ndim else None for name, array in found.items()}
    if len(set(rows.values())) > 1 or None in rows.values() or 0 in rows.values():
        raise ValueError(f"{path} must hold arrays with as many rows each; got {rows}.")
    for name, array in found.items():
        if array.dtype.kind == "f":  # NaN is for some of them what is missing
            float32(path, name, array, missing=True)
        elif array.dtype.kind not in "biuSU":
            raise ValueError(f"{path}: {name} must hold real numbers; got {array.dtype}.")
    return found
