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
from torch import Tensor, nn

from mtlfast.recipes import Experiment, make_weighting
from mtlfast.recipes.files import LABELS, Columns, check_answers, standardise
from mtlfast.train import Images, MultiTaskModel, Samples, Task, Trainer, read_list, read_table
from mtlfast.weighting import Fixed

__all__ = ["add_options", "build", "claimed", "hide", "micro", "read"]

SYSTEM = "Caffe's sliced labels"
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
    """Adds what this recipe takes beside the options of all."""
    parser.add_argument("--hidden", type=float, default=0.0, help="share of training labels hidden")
    parser.add_argument("--labels", action=Columns, help=LABELS)


def claimed(tasks: Sequence[str], *, hidden: float, **options: Any) -> bool:
    """Returns whether these are all labels of the emotions in music."""
    return sorted(tasks) == EMOTIONS and not hidden


def build(
    *,
    data: Path,
    epochs: int,
    seed: int,
    weighting: str,
    hidden: float = 0.0,
    labels: Sequence[str] | str | int | None = None,
    variant: str = "sum",
    **options: Any,
) -> Experiment:
    """Returns the experiment; its figures are Hamming loss and micro-F1 on the test data.

    Args:
        data: a table, or a folder with two lists.
        epochs: of the whole run.
        seed: hides training labels, and is the trainer's.
        weighting: a name in ``recipes.WEIGHTINGS``.
        hidden: the share of training labels that is hidden.
        labels: the label columns, see ``read_table``.
        variant: a name in ``VARIANTS``.
        options: more for the trainer.
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
    steps = epochs * -(-len(train) // BATCH_SIZE)
    weigh = (
        Fixed([1.0] * len(names), normalize=variant)
        if weighting == "fixed"
        else make_weighting(weighting, len(names), steps, epochs, seed=seed)
    )
    optimizer = torch.optim.Adam([*model.parameters(), *weigh.parameters()], lr=1e-3)
    run = Trainer(model, tasks, optimizer, weighting=weigh, seed=seed, **options)
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
    table = read_table(data, labels, sliced=True, dtype=torch.float64)
    check_answers(table, data)
    parts: dict[str, Any] = table.parts(
        "index" if table.split is None else "given", weight_data=weight_data
    )
    standardise(parts, data)
    return table.names, parts


def hide(targets: dict[str, Tensor], share: float, seed: int) -> None:
    """Replaces a share of the labels, chosen at random, by missing ones."""
    if not 0 <= share < 1:
        raise ValueError(f"hidden must be a share of the labels, below 1; got {share}.")
    generator = torch.Generator().manual_seed(seed)
    for name, labels in targets.items():
        gone = torch.rand(labels.shape, generator=generator) < share
        targets[name] = labels.masked_fill(gone, torch.nan if labels.is_floating_point() else -1)


def micro(run: Trainer, data: Samples | Images) -> dict[str, float]:
    """Returns Hamming loss and micro-F1 over all labels that are there."""
    logits = torch.cat([run.predict(data)[name] for name in run.names], 1)
    truth = torch.stack([data.targets[name] for name in run.names], 1)
    guess, yes, no = logits > 0, truth == 1, truth == 0
    hits, wrong = (guess & yes).sum().item(), ((guess & no) | (~guess & yes)).sum().item()
    labelled = max(1, (yes | no).sum().item())
    return {"Hamming loss": wrong / labelled, "micro-F1": 2 * hits / max(1, 2 * hits + wrong)}
