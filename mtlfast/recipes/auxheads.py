"""GoogLeNet's auxiliary classifiers: heads at different depths, dropped at inference.

A deep plain network (nine convolutions, no normalisation, torch's own first weights, with which
gradients shrink from layer to layer) learns scikit-learn's scanned digits. Two more classifiers of
the same labels sit on intermediate outputs, so that the early layers are near a loss, and add to
the main one: L + 0.3 L_shallow + 0.3 L_middle. On ImageNet that was worth about 0.5 %.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtlfast.recipes import digits
from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Task

__all__ = ["build"]

CLAIM = "better with auxiliary heads than without, at 0.3 each"
DATA = None
VARIANTS = {
    "on": "L + 0.3 L_shallow + 0.3 L_middle",
    "off": "the same network, the last head alone",
}
EPOCHS = 25
WEIGHTING = "fixed"
BATCH_SIZE = 32
AUXILIARY_WEIGHT = 0.3
CHANNELS = {"shallow": (1, 16), "middle": (16, 32), "deep": (32, 64)}


def build(*, data: None, seed: int, variant: str = "on", **options: Any) -> Experiment:
    """Returns the experiment: the digits, with or without the two heads that help.

    Args:
        data, seed, variant, options: as for every recipe.
    """
    parts: dict[str, Any] = dict(digits.split(seed, hidden=0.0))
    torch.manual_seed(seed)
    shared: Any = {"target": "digit", "loss": "cross_entropy"}
    tasks = [Task("digit", output="deep", metrics=["accuracy"], **shared)]
    if variant == "on":
        shared |= {"weight": AUXILIARY_WEIGHT, "auxiliary": True}
        tasks += [Task(name, output=name, **shared) for name in ("shallow", "middle")]
    trainer = make_trainer(
        network(), tasks, parts["train"], BATCH_SIZE, seed=seed, annealed=True, **options
    )
    return Experiment(trainer, **parts, batch_size=BATCH_SIZE)


def network() -> MultiTaskModel:
    """Returns three stages of three convolutions, with a classifier on the output of each."""
    stages = {name: stage(*channels) for name, channels in CHANNELS.items()}
    backbone = nn.Sequential()
    for name, module in stages.items():
        backbone.add_module(name, module)
    heads = {name: (name, classifier(width)) for name, (_, width) in CHANNELS.items()}
    return MultiTaskModel(backbone, heads)


def stage(inputs: int, outputs: int) -> nn.Sequential:
    """Returns three convolutions; the last halves height and width."""
    layers: list[nn.Module] = []
    for number in range(3):
        width = inputs if number == 0 else outputs
        layers += [nn.Conv2d(width, outputs, 3, 1 + number // 2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def classifier(channels: int) -> nn.Sequential:
    """Returns a head as GoogLeNet's: pooled, a hidden layer, dropout, ten classes."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, 64),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(64, 10),
    )
