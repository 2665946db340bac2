"""What recipes do with labels: hide a share of them, and check that they are answers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mtlfast.train import Images, Table

__all__ = ["check_answers", "hide"]


def hide(targets: dict[str, Tensor], share: float, seed: int) -> None:
    """Replaces a share of the labels, chosen at random, by missing ones.

    Raises:
        ValueError: for a share below 0, or of all.
    """
    if not 0 <= share < 1:
        raise ValueError(f"hidden must be a share of the labels, below 1; got {share}.")
    generator = torch.Generator().manual_seed(seed)
    for name, labels in targets.items():
        gone = torch.rand(labels.shape, generator=generator) < share
        targets[name] = labels.masked_fill(gone, torch.nan if labels.is_floating_point() else -1)


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
