"""Handwritten digits: which digit it is, and six properties of that digit, learned together.

scikit-learn's bundled scans (1797 images, 8x8; no download). Of the training labels of all seven
tasks 30 % are hidden. The data is cut once: training, weight data (which adaptive weights observe),
validation (curves) and test (the final table).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.labels import hide
from mtlfast.recipes.material.layers import convolutions
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Samples, Task
from mtlfast.weighting import Weighting

__all__ = ["build"]

CLAIM = "an example of this package"
DATA = None
VARIANTS = {"joint": "all tasks together"}
EPOCHS = 40
WEIGHTING = "validation-loss-trend"
BATCH_SIZE = 32
HIDDEN = 0.3
SIZES = {"train": 1037, "weight_data": 200, "validation": 200, "test": 360}
ATTRIBUTES = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "five_or_more": {5, 6, 7, 8, 9},
    "multiple_of_three": {0, 3, 6, 9},
    "closed_loop": {0, 6, 8, 9},
    "straight_strokes": {1, 4, 7},
}


def build(*, data: None, seed: int, variant: str = "joint", **options: Any) -> Experiment:
    """Returns the experiment: a small network with two heads, four disjoint parts of the data.

    Args:
        data, seed, variant, options: as for every recipe; the seed hides training labels, too.
    """
    parts: dict[str, Any] = dict(split(seed))
    torch.manual_seed(seed)
    model = network()
    tasks = [
        Task("digit", output="digit", target="digit", loss="cross_entropy", metrics=["accuracy"]),
        Task(
            list(ATTRIBUTES),
            output="attributes",
            target="attributes",
            loss="binary_cross_entropy_with_logits",
            metrics=["accuracy"],
        ),
    ]

    def optimizer(weigh: Weighting) -> torch.optim.Optimizer:
        groups = [
            {"params": list(model.parameters()), "weight_decay": 1e-2},
            {"params": list(weigh.parameters()), "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=1e-3)

    trainer = make_trainer(
        model, tasks, parts["train"], BATCH_SIZE, seed=seed, optimizer=optimizer, **options
    )
    return Experiment(trainer, **parts, batch_size=BATCH_SIZE)


def network() -> MultiTaskModel:
    """Returns two convolutions and a hidden layer, with heads for the digit and its properties."""
    backbone = nn.Sequential(
        *convolutions((1, 16, 32), 3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Dropout(0.3),
    )
    return MultiTaskModel(
        backbone, {"digit": nn.Linear(64, 10), "attributes": nn.Linear(64, len(ATTRIBUTES))}
    )


def split(seed: int, hidden: float = HIDDEN) -> dict[str, Samples]:
    """Returns the four parts of the data, always the same; ``seed`` hides training labels.

    Args:
        seed: chooses the training labels to hide.
        hidden: the share of them.
    """
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    images = torch.from_numpy(pixels[order]).float().reshape(-1, 1, 8, 8) / 16
    digit = torch.from_numpy(digits[order])
    table = torch.tensor([[d in members for members in ATTRIBUTES.values()] for d in range(10)])
    targets = {"digit": digit, "attributes": table[digit].to(torch.int8)}
    chunks = [images, *targets.values()]
    pieces = zip(*(chunk.split(list(SIZES.values())) for chunk in chunks), strict=True)
    parts = {
        name: Samples(x, dict(zip(targets, ys, strict=True)))
        for name, (x, *ys) in zip(SIZES, pieces, strict=True)
    }
    hide(parts["train"].targets, hidden, seed)
    return parts
