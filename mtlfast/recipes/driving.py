"""Several yes-or-no questions about one input, many of them without an answer ('?').

The driving example asks of each picture for a pedestrian, a car, a stop sign and a traffic light.
One network answers all T questions, and a label that is '?' is left out of the sum:

    J = 1/m sum_i sum_{t labelled} w_t(y) loss(x_t, y) + penalty/2 sum W^2

over the m rows of a batch, with the logistic loss and weights w_t(y) = N_t / n_t(y) under which
both classes of a task count the same. The network and its settings are those of DeepChem's
multi-task classifier for Tox21: 12 assays, 17 % of their results missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtlfast import BCEWithLogitsLoss
from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.files import read_parts
from mtlfast.recipes.material.parsing import LABELS, Columns, add_parameters
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Samples, Task, Trainer, quantity
from mtlfast.weighting import Weighting

__all__ = ["add_options", "balanced", "build", "claimed", "trainer"]

CLAIM = "DeepChem on Tox21, validation AUC: index split .763, random split .783"
DATA = "a table: .npz with X or fp_packed and Y or labels, or .csv with --labels"
VARIANTS = {"joint": "one network for all questions"}
EPOCHS = 10
WEIGHTING = "fixed"
BATCH_SIZE = 50
WIDTH = 1500
PENALTY = 0.1
TOX21 = [
    "NR-AR",
    "NR-AR-LBD",
    "NR-AhR",
    "NR-Aromatase",
    "NR-ER",
    "NR-ER-LBD",
    "NR-PPAR-gamma",
    "SR-ARE",
    "SR-ATAD5",
    "SR-HSE",
    "SR-MMP",
    "SR-p53",
]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that this recipe alone has."""
    add_parameters(
        parser,
        build,
        split="index, random or given",
        metric="of each task",
        width="hidden units",
    )
    parser.add_argument("--labels", action=Columns, help=LABELS)


def claimed(tasks: Sequence[str], *, split: str, metric: str, **options: Any) -> bool:
    """Returns whether these are Tox21's assays, cut and scored as DeepChem does."""
    return sorted(tasks) == TOX21 and split in ("index", "random") and metric == "auroc"


def build(
    *,
    data: Path,
    seed: int,
    weighting: str,
    split: str = "index",
    metric: str = "auroc",
    labels: Sequence[str] | str | int | None = None,
    width: int = WIDTH,
    variant: str = "joint",
    **options: Any,
) -> Experiment:
    """Returns the experiment; its figures are the metric's means over tasks on each part.

    Args:
        data, seed, weighting, variant, options: as for every recipe; the seed draws a random
            split, too.
        split: how the table is cut, see ``Table.parts``.
        metric: a name as ``Task`` takes it.
        labels: the label columns, see ``read_table``.
        width: of the hidden layer.
    """
    names, parts = read_parts(
        data, labels, split, seed, weight_data=weighting != "fixed", whole=False
    )
    run = trainer(names, parts["train"], metric, width, seed, weighting, **options)

    def measure() -> dict[str, float | None]:
        scored = [name for name in ("train", "validation", "test") if parts[name] is not None]
        return {f"{n} {metric}": quantity(run.evaluate(parts[n]), metric) for n in scored}

    return Experiment(run, **parts, batch_size=BATCH_SIZE, measure=measure)


def trainer(
    names: Sequence[str],
    train: Samples,
    metric: str,
    width: int,
    seed: int,
    weighting: str | Weighting = "fixed",
    epochs: int = EPOCHS,
    **options: Any,
) -> Trainer:
    """Returns a trainer of one network for all ``names``, the columns of ``train``'s labels."""
    if width < 1:
        raise ValueError(f"width must be at least 1; got {width}.")
    torch.manual_seed(seed)
    features = train.inputs[0].numel()
    hidden, head = nn.Linear(features, width), nn.Linear(width, len(names))
    for layer in (hidden, head):
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.ones_(layer.bias)
    body = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Dropout(0.5))
    model = MultiTaskModel(body, {"labels": head})
    task = Task(
        names,
        output="labels",
        target="labels",
        loss=balanced(train.targets["labels"]),
        normalizer="rows",
        metrics=[metric],
    )

    def optimizer(weigh: Weighting) -> torch.optim.Optimizer:
        # Adam's own decay adds PENALTY x W to the gradient: that of PENALTY / 2 sum W^2.
        matrices = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() == 1] + list(weigh.parameters())
        groups: Any = [{"params": matrices, "weight_decay": PENALTY}, {"params": rest}]
        # Fused, it reads the weights once.
        return torch.optim.Adam(groups, lr=1e-3, fused=True)

    own: Any = {"seed": seed, "weighting": weighting, "epochs": epochs, "optimizer": optimizer}
    return make_trainer(model, [task], train, BATCH_SIZE, **own, **options)


def balanced(labels: Tensor) -> BCEWithLogitsLoss:
    """Returns the logistic loss with weights N / n_class, so that classes count the same."""
    positive, negative = ((labels == value).sum(0).clamp(min=1) for value in (1, 0))
    return BCEWithLogitsLoss((positive + negative) / negative, pos_weight=negative / positive)
