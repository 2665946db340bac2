"""What a run leaves in its output directory: report.json, and history.csv and its rows."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtlfast.train.tables import average, scored
from mtlfast.writing import write_atomic

__all__ = [
    "rows",
    "scalars",
    "weights_sha256",
    "write",
    "write_history",
]

FILES = ("report.json", "history.csv", "weights.png", "losses.png", "checkpoints")
# What a run leaves there in any case; with TensorBoard this folder too.
TENSORBOARD = "tensorboard"
Rows = list[dict[str, Any]]


def rows(
    epoch: int,
    step: int,
    learned: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Any]],
    active: Collection[str] | None = None,
) -> Rows:
    """Returns the history's rows of one epoch, one for each task.

    What is not defined is None, as the training loss of a task that was not trained.

    Args:
        epoch: its number, from 1.
        step: optimizer steps done.
        learned: each task's weight, and loss and labelled count in training.
        scores: each task's loss, labelled count and metrics on validation data; may be empty.
        active: names of the tasks that were trained; by default all.
    """
    table = []
    for name, train in learned.items():
        trained = active is None or name in active
        row = {"epoch": epoch, "step": step, "task": name, "active": trained}
        row |= {"weight": train["weight"], "train_loss": train["loss"] if trained else None}
        row |= {"train_labels": train["count"] if trained else 0}
        if name in scores:
            score = scores[name]
            row |= {"validation_loss": score["loss"], "validation_labels": score["count"]}
            row |= {f"validation_{key}": value for key, value in score["metrics"].items()}
        table.append(row)
    return table


def scalars(rows: Rows) -> dict[str, float]:
    """Returns the numbers of an epoch's rows by flat names, as a tracker logs them.

    Losses, weights and validation metrics; what is None is left out.

    Example:
        >>> scalars([{"task": "digit", "weight": 1.0, "train_loss": 0.5, "validation_loss": None}])
        {'weight/digit': 1.0, 'train_loss/digit': 0.5}
    """
    return {
        f"{key}/{row['task']}": value
        for row in rows
        for key, value in row.items()
        if key in ("weight", "train_loss") or key in scored(row)
        if value is not None
    }


def write_history(output: Path, history: Rows) -> None:
    """Writes history.csv: a row per epoch and task, empty where something is not defined."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in history for key in row)))
    writer.writeheader()
    writer.writerows(history)
    write_atomic(output / "history.csv", text.getvalue().encode())


def weights_sha256(model: nn.Module) -> str:
    """Returns the SHA-256 over the bytes of the model's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(
    trainer: Any,
    scores: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    *,
    figures: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Writes report.json into the trainer's output directory and returns its content.

    Args:
        trainer: a Trainer after ``fit``.
        scores: what its ``evaluate`` returned for the test data.
        settings: all that decided the outcome.
        figures: the system's own figures; by default the means of the metrics.

    Returns:
        The content. What is not defined, or not finite, is null and outside of means.
    """
    tasks: dict[str, Any] = {}
    stopped = {
        name: epoch
        for first, epoch in trainer.stopped.items()
        for task in trainer.tasks
        if task.names[0] == first
        for name in task.names
    }
    best = trainer.best and trainer.best.state_dict()
    final = best["epoch"] if best and best["epoch"] else math.inf
    for name in trainer.names:
        past = [row for row in trainer.history if row["task"] == name and row["epoch"] <= final]
        last, test = past[-1], scores[name]
        trained = [row["train_loss"] for row in past if row["train_loss"] is not None]
        tasks[name] = {
            "metrics": test["metrics"],
            "losses": {
                "train": trained[-1] if trained else None,
                "validation": last.get("validation_loss"),
                "test": test["loss"],
            },
            "labelled": {
                "train": max(row["train_labels"] for row in past),
                "validation": last.get("validation_labels", 0),
                "test": test["count"],
            },
            "weight": last["weight"],
            "stopped": stopped.get(name),
        }
    tasks = _plain(tasks)
    metrics = dict.fromkeys(key for task in tasks.values() for key in task["metrics"])
    means = {key: average(task["metrics"].get(key) for task in tasks.values()) for key in metrics}
    if figures is None:
        figures = {key: mean for key, mean in means.items() if mean is not None}
    content = {
        "tasks": tasks,
        "mean": {
            "metrics": means,
            "losses": {
                key: average(task["losses"][key] for task in tasks.values())
                for key in ("train", "validation", "test")
            },
        },
        "figures": figures,
        "best": best if best and best["value"] is not None else None,
        "weights_sha256": weights_sha256(trainer.model),
        "timing": {
            "train_seconds": trainer.seconds,
            "steps": trainer.step,
            "milliseconds_per_step": 1000 * trainer.seconds / trainer.step,
        },
        "settings": {
            **settings,
            "device": str(trainer.device),
            "torch": torch.__version__,
        },
    }
    content = _plain(content)
    text = json.dumps(content, indent=2, default=str, allow_nan=False)
    write_atomic(trainer.output / "report.json", f"{text}\n".encode())
    return content


def _plain(value: Any) -> Any:
    """Returns ``value`` with None for every number that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
