"""Labels: how they lie beside an output, and what they hold that a loss cannot take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "aligned",
    "along",
    "apart",
    "covers",
    "first",
    "is_number",
    "no_index",
    "row_of",
    "signs",
]


def aligned(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns an output and its labels, so that neither broadcasts against the other.

    (N, 1) beside (N,) becomes (N,) on either side; as many labels as elements come in the output's
    shape; and what is of another kind, as class indices (N,) beside (N, C), stays as it is.

    Raises:
        ValueError: for other shapes, where arithmetic would broadcast or labels change places.
    """
    own, other = output.shape[1:], target.shape[1:]
    if own == other and len(output) == len(target):
        return output, target
    if len(output) == len(target) and math.prod(own) == math.prod(other):
        if {len(own), len(other)} == {0, 1}:
            return output.reshape(-1), target.reshape(-1)
        if min(len(own), len(other)) < 2 or _wide(own) == _wide(other):
            return output, target.reshape(output.shape)
    elif len(output) == len(target) and not _broadcast(own, other):
        return output, target
    raise ValueError(
        f"labels {tuple(target.shape)} would broadcast or change places beside an output "
        f"{tuple(output.shape)}; give them its shape, or {(len(target),)} for one label a row"
    )


def apart(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a small batch with so many rows that no dimension passes for that of the rows.

    Two rows beside two classes broadcast by chance, and a single row always does.
    """
    sizes = {1, *output.shape[1:], *target.shape[1:]}
    while output.shape != target.shape and 0 < len(output) == len(target) in sizes:
        output, target = torch.cat((output, output[:1])), torch.cat((target, target[:1]))
    return output, target


def covers(present: Tensor, tensor: Tensor) -> bool:
    """Whether each label belongs to one element of a tensor, to a row, or to a pixel."""
    own, other = present.shape, tensor.shape
    fits = other[: len(own)] == own or (other[:1] == own[:1] and other[2:] == own[1:])
    return fits or own.numel() == other.numel()


def along(present: Tensor, tensor: Tensor) -> Tensor:
    """Returns ``present`` in a shape that broadcasts to that of ``tensor``."""
    own, other = present.shape, tensor.shape
    if own.numel() == other.numel():
        return present.reshape(other)
    if other[: len(own)] == own:
        return present.reshape(own + (1,) * (len(other) - len(own)))
    return present.unsqueeze(1)


def first(target: Tensor, wrong: Tensor) -> tuple[int, str] | None:
    """Returns the row and the value of the first label that is wrong, or None.

    Args:
        target: (N, ...) labels.
        wrong: which of them are.
    """
    if not wrong.any():
        return None
    index = wrong.nonzero()[0].tolist()
    value = target[tuple(index)].item()
    return index[0], str(int(value)) if value % 1 == 0 else f"{value:g}"


def no_index(target: Tensor, classes: int | None) -> Tensor:
    """Returns which labels are no class.

    Args:
        target: (N, ...) class indices; -1 is one that may stand for none.
        classes: their number, or None where it is not known.
    """
    wrong = torch.zeros_like(target, dtype=torch.bool)
    if target.dtype.is_signed:
        wrong |= target < -1
    if target.is_floating_point():
        wrong |= (target != target.trunc()) | target.isinf()
    if classes is not None and _fits(classes, target.dtype):
        wrong |= target >= classes
    return wrong


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


def _fits(number: int, dtype: torch.dtype) -> bool:
    if dtype.is_floating_point or dtype == torch.bool:
        return True
    bounds = torch.iinfo(dtype)
    return bounds.min <= number <= bounds.max


def _wide(shape: torch.Size) -> list[int]:
    return [size for size in shape if size != 1]


def _broadcast(own: torch.Size, other: torch.Size) -> bool:
    """Whether shapes would, below as many rows as no dimension has."""
    rows = 1 + max(1, *own, *other)
    pairs = zip((*own[::-1], rows), (*other[::-1], rows), strict=False)
    return all(one == two or 1 in (one, two) for one, two in pairs)
