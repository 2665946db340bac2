"""How labels lie beside an output: which element, row or pixel of it each of them belongs to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["aligned", "along", "apart", "covers"]


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


def _wide(shape: torch.Size) -> list[int]:
    return [size for size in shape if size != 1]


def _broadcast(own: torch.Size, other: torch.Size) -> bool:
    """Whether shapes would, below as many rows as no dimension has."""
    rows = 1 + max(1, *own, *other)
    try:
        torch.broadcast_shapes((rows, *own), (rows, *other))
    except RuntimeError:
        return False
    return True
