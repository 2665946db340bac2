"""Person attributes with adaptive weights: 40 binary labels, each loss weighed by its trend.

CelebA's people in the wild, 64x64 grey, not aligned. Every iteration takes 10 training images for
the gradient and 10 weight images, which give none: every K iterations, what their losses have
changed sets the weights. Of the first part's people a tenth gives the weight images and a tenth
those that are scored after each epoch; the second part's people, none of them seen, are the test.

The paper has a ResNet-50 and all of CelebA, aligned: mean accuracy .9048 with equal weights, .9085
with adaptive ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.files import arrays, grey
from mtlfast.recipes.material.layers import convolutions
from mtlfast.recipes.material.parsing import add_parameters
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Samples, Task
from mtlfast.weighting import ValidationLossTrend

__all__ = ["build"]

CLAIM = "adaptive weights do better than equal ones"
DATA = "a directory with CelebA's images, celeba_wild_gray64_part0.npz and part1"
VARIANTS = {"joint": "all attributes together"}
EPOCHS = 10
WEIGHTING = "validation-loss-trend"
BATCH_SIZE = 10
FILES = [f"celeba_wild_gray64_part{part}.npz" for part in (0, 1)]
# The order of CelebA's own list.
NAMES = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
    Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
    Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
    Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
"""
ATTRIBUTES = NAMES.split()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that this recipe alone has."""
    add_parameters(
        parser,
        build,
        interval="K of the trend, iterations per window",
        momentum="of the trend, share of the old weights",
        min_weight="of the trend, least weight",
        max_weight="of the trend, largest weight; by default there is no bound",
    )


def build(
    *,
    data: Path,
    seed: int,
    weighting: str,
    variant: str = "joint",
    interval: int = 20,
    momentum: float = 0.0,
    min_weight: float = 0.0,
    max_weight: float | None = None,
    **options: Any,
) -> Experiment:
    """Returns the experiment: a network with one head for all attributes, people apart.

    Args:
        data, seed, weighting, variant, options: as for every recipe.
        interval, momentum, min_weight, max_weight: of the validation-loss trend.
    """
    train, weight_data, validation, test = people(data)
    torch.manual_seed(seed)
    loss, metrics = "binary_cross_entropy_with_logits", ["auroc", "accuracy"]
    task = Task(ATTRIBUTES, output="attributes", target="attributes", loss=loss, metrics=metrics)
    chosen: Any = {"momentum": momentum, "min_weight": min_weight, "max_weight": max_weight}
    own = weighting == "validation-loss-trend"
    weigh = ValidationLossTrend(len(ATTRIBUTES), interval, **chosen) if own else weighting
    trainer = make_trainer(
        network(), [task], train, BATCH_SIZE, seed=seed, weighting=weigh, **options
    )
    return Experiment(trainer, train, weight_data, validation, test, BATCH_SIZE)


def network() -> MultiTaskModel:
    """Returns four convolutions and a hidden layer, with one head for all attributes."""
    layers = convolutions((1, 16, 32, 64, 64), 3, pooled=True)
    backbone = nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * 4 * 4, 128), nn.ReLU()
    )
    return MultiTaskModel(backbone, {"attributes": nn.Linear(128, len(ATTRIBUTES))})


def people(data: Path) -> tuple[Samples, Samples, Samples, Samples]:
    """Returns training, weight, validation and test images, always the same, of disjoint people."""
    known, unseen = arrays(data, FILES, ["images", "attrs", "identity"])
    identity = known["identity"]
    order = np.random.default_rng(0).permutation(np.unique(identity))
    tenth = len(order) // 10
    chosen = (order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth])
    train, weight_data, validation = (samples(known, np.isin(identity, who)) for who in chosen)
    return train, weight_data, validation, samples(unseen, slice(None))


def samples(part: dict[str, np.ndarray], rows: np.ndarray | slice) -> Samples:
    """Returns some images of a file, grey around 0, with their attributes."""
    labels = {"attributes": torch.from_numpy(part["attrs"][rows])}
    return Samples(grey(part["images"][rows]), labels)
