"""What labels hold: the first that a loss cannot take, and which signs there are."""

from __future__ import annotations

import torch
from torch import Tensor

from mtlfast.train.shapes import along

__all__ = ["first_above", "first_no_index", "is_number", "row_of", "signs"]

Found = tuple[int, str]


def first_above(target: Tensor, present: Tensor, high: float) -> Found | None:
    """Returns the row and the value of the first label there is above a bound, or None.

    Args:
        target: (N, ...) labels.
        present: which of them, or of their rows, are there.
        high: the bound.
    """
    return _first(target, (target > high) & along(present, target))


def first_no_index(target: Tensor, present: Tensor, classes: int | None) -> Found | None:
    """Returns the row and the value of the first label there is that is no class, or None.

    Args:
        target: (N, ...) class indices; -1 is one that may stand for none.
        present: which of them, or of their rows, are there.
        classes: their number, or None where it is not known.
    """
    wrong = torch.zeros_like(target, dtype=torch.bool)
    if target.dtype.is_signed:
        wrong |= target < -1
    if target.is_floating_point():
        wrong |= (target != target.trunc()) | target.isinf()
    if classes is not None and _fits(classes, target.dtype):
        wrong |= target >= classes
    return _first(target, wrong & along(present, target))


def is_number(target: Tensor, number: int) -> Tensor:
    """Returns where labels are a number, also where their dtype cannot hold it.

    torch wraps the number round: to it 156 as a byte equals -100.
    """
    if _fits(number, target.dtype):
        return target == number
    return torch.zeros_like(target, dtype=torch.bool)


def row_of(row: int, role: str = "") -> str:
    """Returns a row's name in a message: rows count from 1, in files and in data sets alike.

    Example:
        >>> row_of(0, "dataset")
        'row 1 of dataset'
    """
    return f"row {row + 1}" + (f" of {role}" if role else "")


def signs(target: Tensor, present: Tensor, columns: int) -> Tensor:
    """Returns whether -1, 0 and 1 occur in each column; what else is labelled counts as 0: (3, T).

    Args:
        target: labels.
        present: which of them, or of their rows, are there.
        columns: T.
    """
    table = target.reshape(-1, columns)
    here = along(present, target).expand_as(target).reshape(-1, columns)
    one = table == 1
    return torch.stack((is_number(table, -1).any(0), (here & ~one).any(0), (here & one).any(0)))


def _first(target: Tensor, wrong: Tensor) -> Found | None:
    if not wrong.any():
        return None
    index = wrong.nonzero()[0].tolist()
    value = target[tuple(index)].item()
    return index[0], str(int(value)) if value % 1 == 0 else f"{value:g}"


def _fits(number: int, dtype: torch.dtype) -> bool:
    if dtype.is_floating_point or dtype == torch.bool:
        return True
    bounds = torch.iinfo(dtype)
    return bounds.min <= number <= bounds.max
