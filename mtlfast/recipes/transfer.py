"""Transfer: a new head on a trained body, where the new task has few labels.

scikit-learn's scanned digits: a body learns six properties of a digit (even, prime, closed loop and
so on) from all training labels, then which digit it is gets a new head and a few labels of each.
The body stays as it is, frozen with its batch normalisation in evaluation mode, or goes on learning
at a tenth of the head's rate.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn

from mtlfast.recipes import digits
from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.parsing import add_parameters
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Samples, Task, Trainer
from mtlfast.weighting import Weighting

__all__ = ["add_options", "build"]

CLAIM = "a trained body beats training from scratch where labels are few"
DATA = None
VARIANTS = {
    "head": "a new head on the frozen body",
    "finetune": "a new head, and the body at a tenth of its learning rate",
    "scratch": "no trained body",
}
EPOCHS = 60
WEIGHTING = "fixed"
BATCH_SIZE = 16
LEARNING_RATE = 3e-3
BODY_RATE = 0.1
BODY_EPOCHS = 15
WIDTH = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that this recipe alone has."""
    add_parameters(parser, build, shots="labels of each digit")


def build(
    *,
    data: None,
    seed: int,
    variant: str = "head",
    shots: int = 2,
    **options: Any,
) -> Experiment:
    """Returns the experiment: the digits, with a body that has been trained before.

    Args:
        data, seed, variant, options: as for every recipe; epochs are those on the new task.
        shots: labels of each digit.

    Raises:
        ValueError: for less than one label of each digit, or more than there are.
    """
    parts = digits.split(seed, hidden=0.0)
    train = few(parts["train"], shots, seed)
    torch.manual_seed(seed)
    model = MultiTaskModel(digits.network().backbone, {"head": nn.Linear(WIDTH, 6)})
    if variant != "scratch":
        pretrain(model, parts["train"], seed)
    model.replace_head("head", nn.Linear(WIDTH, 10))
    if variant == "head":
        model.freeze("backbone")
    body = LEARNING_RATE * (BODY_RATE if variant == "finetune" else 1.0)
    groups = model.parameter_groups({"backbone": body, "heads": LEARNING_RATE})

    task = Task("digit", output="head", target="digit", loss="cross_entropy", metrics=["accuracy"])

    def optimizer(weigh: Weighting) -> torch.optim.Optimizer:
        return torch.optim.Adam([*groups, {"params": list(weigh.parameters())}])

    trainer = make_trainer(
        model, [task], train, BATCH_SIZE, seed=seed, optimizer=optimizer, **options
    )
    rest: dict[str, Any] = {name: parts[name] for name in ("weight_data", "validation", "test")}
    return Experiment(trainer, train, **rest, batch_size=BATCH_SIZE)


def pretrain(model: MultiTaskModel, samples: Samples, seed: int) -> None:
    """Trains the model on the task that has many labels: the six properties."""
    task = Task(
        list(digits.ATTRIBUTES),
        output="head",
        target="attributes",
        loss="binary_cross_entropy_with_logits",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    Trainer(model, task, optimizer, seed=seed).fit(samples, BODY_EPOCHS, digits.BATCH_SIZE)


def few(part: Samples, shots: int, seed: int) -> Samples:
    """Returns ``shots`` samples of each digit, chosen at random."""
    labels = part.targets["digit"]
    least = int(labels.bincount().min())
    if not 1 <= shots <= least:
        raise ValueError(f"--shots must be from 1 to {least}, as many as there are; got {shots}.")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = torch.cat([order[labels[order] == digit][:shots] for digit in range(10)])
    return Samples(*part[chosen])
