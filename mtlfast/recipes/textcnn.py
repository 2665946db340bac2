"""Text-Attentional CNN in miniature: is this patch text, which character, and which of its pixels.

L = L_text + lambda_character L_character + lambda_region L_region, trained in two stages: first
character and region alone, which teach the network what characters look like; then the region task
stops for good, and text / non-text, the main task, is trained with the character. Patches without
text have no character, a label that is missing, and an empty mask.

It draws its own patches, 32 x 32: characters of the fonts that matplotlib ships, with their true
masks, and clutter. It learns from DejaVu, looks at Computer Modern after each epoch, and is scored
on STIX.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn

from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.layers import convolutions
from mtlfast.recipes.material.parsing import add_parameters
from mtlfast.recipes.material.patches import CHARACTERS, patches
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Stage, Task

__all__ = ["add_options", "build"]

CLAIM = "character and region help the main task"
DATA = None
VARIANTS = {
    "staged": "character and region first, then text and character",
    "main": "text / non-text alone, for as many epochs",
}
EPOCHS = 12
WEIGHTING = "fixed"
BATCH_SIZE = 32
LAMBDAS = {"character": 0.3, "region": 30.0}  # the region's loss is a mean over 1024 pixels
PARTS = {
    "train": ("DejaVu", 1600),
    "weight_data": ("cm", 200),
    "validation": ("cm", 200),
    "test": ("STIXGeneral", 1000),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that this recipe alone has."""
    words = {f"lambda_{name}": f"weight of the {name} task" for name in LAMBDAS}
    add_parameters(parser, build, **words)


def build(
    *,
    data: None,
    epochs: int,
    seed: int,
    variant: str = "staged",
    lambda_character: float = LAMBDAS["character"],
    lambda_region: float = LAMBDAS["region"],
    **options: Any,
) -> Experiment:
    """Returns the experiment: one convolutional network, three tasks in two stages, or one task.

    Args:
        data, seed, variant, options: as for every recipe.
        epochs: of the whole run, the first third of them without the main task.
        lambda_character, lambda_region: weights of the two tasks that help.
    """
    seeds = {"train": 1000 + seed}  # the other parts are always the same
    parts: dict[str, Any] = {
        name: patches(*which, seeds.get(name, number))
        for number, (name, which) in enumerate(PARTS.items())
    }
    torch.manual_seed(seed)
    tasks = [Task("text", output="text", target="text", loss="cross_entropy", metrics=["accuracy"])]
    stages = []
    if variant == "staged":
        weights = {"character": lambda_character, "region": lambda_region}
        losses = {"character": "cross_entropy", "region": "mse_loss"}
        tasks += [
            Task(name, output=name, target=name, loss=losses[name], weight=weight, auxiliary=True)
            for name, weight in weights.items()
        ]
        first = max(1, epochs // 3)
        stages = [
            Stage(["character", "region"], first),
            Stage(["text", "character"], epochs - first),
        ]
    own: Any = {"epochs": epochs, "seed": seed, "stages": stages}
    trainer = make_trainer(network(), tasks, parts["train"], BATCH_SIZE, **own, **options)
    return Experiment(trainer, **parts, batch_size=BATCH_SIZE)


def network() -> MultiTaskModel:
    """Returns three convolutions, the region on top of them, and a feature for the two classes."""
    layers = convolutions((1, 16, 32, 64), 5, (2, 2, 2))
    region = nn.Sequential(
        nn.ConvTranspose2d(64, 32, 4, 4), nn.ReLU(), nn.ConvTranspose2d(32, 1, 2, 2), nn.Flatten()
    )
    backbone = nn.Sequential()
    backbone.add_module("convolutions", nn.Sequential(*layers))
    feature = nn.Sequential(nn.Flatten(), nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Dropout(0.5))
    backbone.add_module("feature", feature)
    heads: dict[str, Any] = {
        "text": nn.Linear(128, 2),
        "character": nn.Linear(128, len(CHARACTERS)),
        "region": ("convolutions", region),
    }
    return MultiTaskModel(backbone, heads)
