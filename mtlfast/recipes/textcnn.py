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

from mtlfast.recipes import Experiment, make_weighting
from mtlfast.recipes.patches import CHARACTERS, patches
from mtlfast.train import MultiTaskModel, Stage, Task, Trainer

__all__ = ["add_options", "build"]

SYSTEM = "Text-Attentional CNN"
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
    """Adds the options of this recipe."""
    for name, weight in LAMBDAS.items():
        parser.add_argument(
            f"--lambda-{name}",
            type=float,
            default=weight,
            metavar="W",
            help=f"weight of the {name} task (default: {weight:g})",
        )


def build(
    *,
    data: None,
    epochs: int,
    seed: int,
    weighting: str,
    variant: str = "staged",
    lambda_character: float = LAMBDAS["character"],
    lambda_region: float = LAMBDAS["region"],
    **options: Any,
) -> Experiment:
    """Returns the experiment: one convolutional network, three tasks in two stages, or one task.

    Args:
        data: None, as the patches are drawn.
        epochs: of the whole run, the first third of them without the main task.
        seed: draws the training patches and the first weights, and is the trainer's.
        weighting: a name in ``recipes.WEIGHTINGS``.
        variant: a name in ``VARIANTS``.
        lambda_character, lambda_region: weights of the two tasks that help.
        options: more for the trainer.
    """
    seeds = {"train": 1000 + seed}  # the other parts are always the same
    parts: dict[str, Any] = {
        name: patches(*which, seeds.get(name, number))
        for number, (name, which) in enumerate(PARTS.items())
    }
    torch.manual_seed(seed)
    model = network()
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
    steps = epochs * -(-len(parts["train"]) // BATCH_SIZE)
    weigh = make_weighting(weighting, len(tasks), steps, epochs, seed=seed)
    optimizer = torch.optim.Adam([*model.parameters(), *weigh.parameters()], lr=1e-3)
    trainer = Trainer(model, tasks, optimizer, weighting=weigh, stages=stages, seed=seed, **options)
    return Experiment(trainer, **parts, batch_size=BATCH_SIZE)


def network() -> MultiTaskModel:
    """Returns three convolutions, the region on top of them, and a feature for the two classes."""
    layers: list[nn.Module] = []
    for channels, outputs in ((1, 16), (16, 32), (32, 64)):
        convolution = nn.Conv2d(channels, outputs, 5, 2, padding=2, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
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
