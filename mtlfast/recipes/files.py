"""What recipes do with files: arrays of a data directory, label columns, inputs of a table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtlfast.train import Images, Table
from mtlfast.train.arrays import float32, merged, read_arrays, warn_merged

__all__ = ["LABELS", "Columns", "arrays", "check_answers", "standardise"]

Arrays = dict[str, np.ndarray]
LABELS = "a CSV's label columns: a,b or the last n; or --labels for each, as names may hold commas"


class Columns(argparse.Action):
    """Takes label columns: a number, names with commas between, or a name each time it is given."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Adds what the option was given to what it was given before."""
        before, given = getattr(namespace, self.dest, None), values
        if before is not None:
            given = [*(before if isinstance(before, list) else [str(before)]), values]
        elif values.removeprefix("-").isdecimal():
            given = int(values)
        setattr(namespace, self.dest, given)


def check_answers(data: Table | Images, where: Path) -> None:
    """Checks that labels are answers: 0 and 1, where they are known.

    Raises:
        ValueError: for the first that is something else, with its place.
    """
    labels = data.labels
    odd = ~((labels == 0) | (labels == 1) | (labels < 0) | labels.isnan())
    if odd.any():
        row, column = odd.nonzero()[0].tolist()
        raise ValueError(
            f"the labels of {where} must be 0 or 1, NaN or negative where missing; got "
            f"{labels[row, column].item():g} in row {row + 1} of {data.names[column]!r}: for "
            "regression write a Task with loss='mse_loss', for classes one with "
            "loss='cross_entropy'."
        )


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
