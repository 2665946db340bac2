"""Label structures: a feature for characters whose alphabets lie apart too, after Zhang et al.

Omniglot's characters belong to alphabets. An item is four images through one network: an anchor,
one of the same character, one of the same alphabet, one of another alphabet. With D the (squared)
distance of their L2-normalised features and m1 > m2 > 0,

    L = lambda_s softmax + (1 - lambda_s) 1/2 [max(0, D(a, character) - D(a, alphabet) + m1 - m2)
                                             + max(0, D(a, alphabet) - D(a, other) + m2)]

A quarter of the characters of each alphabet is held out. On them every image looks for its nearest
neighbour: whether that is the same character, and, with all images of its own character removed,
whether it is of the same alphabet.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mtlfast.functional as MF
from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.layers import ByClass, EachImage, convolutions
from mtlfast.recipes.material.omniglot import read, retrieval
from mtlfast.recipes.material.parsing import add_parameters
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Samples, Task

__all__ = ["add_options", "build"]

CLAIM = "hierarchical labels: retrieval of the coarse label gains, of the fine one stays"
DATA = "a directory with omniglot_small.npz"
VARIANTS = {
    "hierarchical": "softmax and quadruplets, m1 > m2",
    "triplet": "softmax and triplets of characters, one margin",
    "softmax": "softmax alone",
}
EPOCHS = 5
WEIGHTING = "fixed"
BATCH_SIZE = 32
LAMBDA_S = 0.2
MARGINS = {"hierarchical": (0.8, 0.4), "triplet": (0.4,)}
WIDTH = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that this recipe alone has."""
    weight = "weight of the softmax, the triplets have the rest"
    squared = "compare squared distances, not plain ones"
    add_parameters(parser, build, lambda_s=weight, squared=squared)


def build(
    *,
    data: Path,
    seed: int,
    variant: str = "hierarchical",
    lambda_s: float = LAMBDA_S,
    squared: bool = False,
    **options: Any,
) -> Experiment:
    """Returns the experiment: four images an item through one network, and retrieval at the end.

    Args:
        data, seed, variant, options: as for every recipe.
        lambda_s: weight of the softmax.
        squared: whether the triplets compare squared distances.
    """
    train, test, held_out = read(data, levels=variant == "hierarchical")
    torch.manual_seed(seed)
    alone = variant == "softmax"
    tasks = [
        Task(
            "character",
            output="character",
            target="character",
            loss="cross_entropy",
            weight=1.0 if alone else lambda_s,
        )
    ]
    if not alone:
        loss = partial(structure, margins=MARGINS[variant], squared=squared)
        tasks.append(
            Task("structure", output="feature", target="alphabet", loss=loss, weight=1 - lambda_s)
        )
    model = network(train.characters)
    trainer = make_trainer(model, tasks, train, BATCH_SIZE, seed=seed, **options)

    def measure() -> dict[str, float]:
        features = trainer.predict(Samples(held_out.inputs[:, None], {}))["feature"]
        return retrieval(features[:, 0], *held_out.targets.values())

    return Experiment(trainer, train, None, test, test, BATCH_SIZE, measure)


def structure(output: Tensor, target: Tensor, margins: Sequence[float], squared: bool) -> Tensor:
    """Returns the loss of each quadruplet (N, 4, D), or with one margin of its first three."""
    anchor, *levels = output.unbind(1)
    levels = levels[: len(margins) + 1]
    return MF.hierarchical_triplet_loss(anchor, levels, margins, squared=squared, reduction="none")


def network(characters: int) -> MultiTaskModel:
    """Returns three convolutions and a feature, with the softmax over characters on it."""
    layers = convolutions((1, 32, 64, 128), 3, (2, 2, 1))
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128 * 3 * 3, WIDTH)]
    heads = {"feature": nn.Identity(), "character": ByClass(WIDTH, characters)}
    return MultiTaskModel(EachImage(OrderedDict(body=nn.Sequential(*layers))), heads)
