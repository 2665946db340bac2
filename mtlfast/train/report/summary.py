"""What a run leaves in its output directory, and report.json."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mtlfast.train.report.tables import average
from mtlfast.train.run import Run
from mtlfast.writing import write_atomic

__all__ = ["weights_sha256", "write"]


def weights_sha256(model: nn.Module) -> str:
    """Returns the SHA-256 over the bytes of the model's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(
    output: Path,
    run: Run,
    model: nn.Module,
    scores: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    *,
    figures: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Writes report.json into an output directory and returns its content.

    Args:
        output: the directory.
        run: the record of the run.
        model: what it has trained.
        scores: what the trainer's ``evaluate`` returned for the test data.
        settings: all that decided the outcome.
        figures: the system's own figures; by default the means of the metrics.

    Returns:
        The content. What is not defined, or not finite, is null and outside of means.
    """
    tasks: dict[str, Any] = {}
    stopped = {name: run.stopped.get(task.names[0]) for task in run.tasks for name in task.names}
    best = run.best and run.best.state_dict()
    final = best["epoch"] if best and best["epoch"] else math.inf
    for name in run.names:
        past = [row for row in run.history if row["task"] == name and row["epoch"] <= final]
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
            "stopped": stopped[name],
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
        "weights_sha256": weights_sha256(model),
        "timing": {
            "train_seconds": run.seconds,
            "steps": run.step,
            "milliseconds_per_step": 1000 * run.seconds / run.step,
        },
        "settings": {
            **settings,
            "device": str(run.device),
            "torch": torch.__version__,
        },
    }
    content = _plain(content)
    text = json.dumps(content, indent=2, allow_nan=False)
    write_atomic(output / "report.json", f"{text}\n".encode())
    return content


def _plain(value: Any) -> Any:
    """Returns ``value`` as JSON gives it back, with None for every number that JSON lacks."""
    text = json.dumps(value, default=lambda v: v.item() if isinstance(v, np.generic) else str(v))
    return json.loads(text, parse_constant=lambda _: None)
