"""One label vector, sliced into tasks of equal weight: Caffe's multi-label sample.

A data layer gives an image and a vector of five labels; a slice layer cuts the vector; each slice
meets a head of its own, in a loss with ``loss_weight`` 0.2. Weights that sum to 1 are
``Fixed(normalize="sum")``; those of mean 1, five times as large, are ``normalize="mean"``.

The data is a table, as the emotions in music (6 labels), or text lists of images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.files import read_parts
from mtlfast.recipes.material.labels import check_answers, hide
from mtlfast.recipes.material.parsing import LABELS, Columns, add_parameters
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import Images, MultiTaskModel, Samples, Task, Trainer, read_list
from mtlfast.weighting import Fixed

__all__ = ["add_options", "build", "claimed", "hide", "micro", "read"]

CLAIM = "an example; a plain PyTorch loop on emotions: Hamming loss .200, micro-F1 .679"
DATA = "a table with a split (.npz, or .csv with --labels), or a folder with train.txt and test.txt"
VARIANTS = {
    "sum": "weights that sum to 1: 0.2 for each of five tasks",
    "mean": "weights of mean 1: 1 for each",
}
EPOCHS = 60
WEIGHTING = "fixed"
BATCH_SIZE = 32
EMOTIONS = [
    "amazed-suprised",
    "angry-aggresive",
    "happy-pleased",
    "quiet-still",
    "relaxing-calm",
    "sad-lonely",
]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that this recipe alone has."""
    add_parameters(parser, build, hidden="share of training labels hidden")
    parser.add_argument("--labels", action=Columns, help=LABELS)


def claimed(tasks: Sequence[str], *, hidden: float, **options: Any) -> bool:
    """Returns whether these are all labels of the emotions in music."""
    return sorted(tasks) == EMOTIONS and not hidden


def build(
    *,
    data: Path,
    seed: int,
    weighting: str,
    hidden: float = 0.0,
    labels: Sequence[str] | str | int | None = None,
    variant: str = "sum",
    **options: Any,
) -> Experiment:
    """Returns the experiment; its figures are Hamming loss and micro-F1 on the test data.

    Args:
        data, seed, weighting, variant, options: as for every recipe; the seed hides training
            labels, too.
        hidden: the share of training labels that is hidden.
        labels: the label columns, see ``read_table``.
    """
    names, parts = read(Path(data), labels, weight_data=weighting != "fixed")
    train = parts["train"]
    hide(train.targets, hidden, seed)
    torch.manual_seed(seed)
    features = train[0][0].numel()
    body = nn.Sequential(nn.Flatten(), nn.Linear(features, 256), nn.ReLU(), nn.Dropout(0.5))
    model = MultiTaskModel(body, {name: nn.Linear(256, 1) for name in names})
    loss = "binary_cross_entropy_with_logits"
    tasks = [Task(n, output=n, target=n, loss=loss, metrics=["accuracy"]) for n in names]
    equal = Fixed([1.0] * len(names), normalize=variant)
    weigh = equal if weighting == "fixed" else weighting
    run = make_trainer(model, tasks, train, BATCH_SIZE, seed=seed, weighting=weigh, **options)
    measure = partial(micro, run, parts["test"])
    return Experiment(run, **parts, batch_size=BATCH_SIZE, measure=measure)


def read(
    data: Path, labels: Sequence[str] | str | int | None = None, *, weight_data: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """Returns the labels' names and the parts; a table's inputs have mean 0 and deviation 1."""
    if (data / "train.txt").is_file():
        train, test = (read_list(data / f"{part}.txt", sliced=True) for part in ("train", "test"))
        for part in (train, test):
            check_answers(part, data)
        none = {"weight_data": None, "validation": None}
        return train.names, {"train": train, **none, "test": test}
    return read_parts(data, labels, sliced=True, weight_data=weight_data)


def micro(run: Trainer, data: Samples | Images) -> dict[str, float]:
    """Returns Hamming loss and micro-F1 over all labels that are there."""
    logits = torch.cat([run.predict(data)[name] for name in run.names], 1)
    truth = torch.stack([data.targets[name] for name in run.names], 1)
    guess, yes, no = logits > 0, truth == 1, truth == 0
    hits, wrong = (guess & yes).sum().item(), ((guess & no) | (~guess & yes)).sum().item()
    labelled = max(1, (yes | no).sum().item())
    return {"Hamming loss": wrong / labelled, "micro-F1": 2 * hits / max(1, 2 * hits + wrong)}
