"""What a person sees of a run: the bar's figures, the table, the pictures, report.json."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mtlfast.train.checkpoint import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["claim", "draw", "table", "write"]

FILES = ("report.json", "history.csv", "weights.png", "losses.png", "checkpoints")
# Of Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE = "#0072B2", "#D55E00"
KEY = """Scores and test loss: on test data, which no choice was made on, where the label is known.
Train labels: how many labels of the task the training data holds; the others are missing.
Final weight: the factor of the task's loss in the total at the end of training."""
Rows = list[dict[str, Any]]


def claim(output: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Makes ``output`` ready to be written, before any work is spent on what goes into it.

    Args:
        output: the directory; made if absent.
        resume: an earlier run in it is continued.
        overwrite: an earlier run in it is removed; files of other kinds stay.

    Raises:
        ValueError: where the directory is not writable, or holds a run that is neither continued
            nor removed.
    """
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
        held = [output / name for name in FILES if (output / name).exists()]
        if held and not (resume or overwrite):
            remedy = "--resume continues it, --overwrite replaces it"
            raise ValueError(f"the output directory {output} holds another run; {remedy}.")
        for path in held if overwrite else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise ValueError(
            f"the output directory {output} must be writable; got: {error.strerror}."
        ) from error


def brief(names: Sequence[str], losses: Sequence[float], most: int = 4) -> str:
    """Returns the mean loss and the largest ones, ``most`` of them, for the end of the bar."""
    pairs = [(loss, name) for name, loss in zip(names, losses, strict=True) if not math.isnan(loss)]
    largest = ", ".join(f"{name} {loss:.3f}" for loss, name in sorted(pairs, reverse=True)[:most])
    return f"mean loss {sum(loss for loss, _ in pairs) / max(1, len(pairs)):.3f}: {largest}"


def rows(
    epoch: int,
    step: int,
    learned: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Any]],
) -> Rows:
    """Returns the history's rows of one epoch, one for each task.

    Args:
        epoch: its number, from 1.
        step: optimizer steps done.
        learned: each task's weight, and loss and labelled count in training.
        scores: each task's loss, labelled count and metrics on validation data; may be empty.
    """
    table = []
    for name, train in learned.items():
        row = {"epoch": epoch, "step": step, "task": name, "weight": train["weight"]}
        row |= {"train_loss": train["loss"], "train_labels": train["count"]}
        if name in scores:
            score = scores[name]
            row |= {"validation_loss": score["loss"], "validation_labels": score["count"]}
            row |= {f"validation_{key}": value for key, value in score["metrics"].items()}
        table.append(row)
    return table


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
    trainer: Any, scores: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes report.json into the trainer's output directory and returns its content.

    Args:
        trainer: a Trainer after ``fit``.
        scores: what its ``evaluate`` returned for the test data.
        settings: what the caller decided, beside the trainer's own settings.
    """
    tasks = {}
    for name in trainer.names:
        past = [row for row in trainer.history if row["task"] == name]
        last, test = past[-1], scores[name]
        tasks[name] = {
            "metrics": test["metrics"],
            "losses": {
                "train": last["train_loss"],
                "validation": last.get("validation_loss"),
                "test": test["loss"],
            },
            "labelled": {
                "train": max(row["train_labels"] for row in past),
                "validation": last.get("validation_labels", 0),
                "test": test["count"],
            },
            "weight": last["weight"],
        }
    metrics = dict.fromkeys(key for task in tasks.values() for key in task["metrics"])
    content = {
        "tasks": tasks,
        "mean": {
            "metrics": {
                key: _mean(task["metrics"].get(key) for task in tasks.values()) for key in metrics
            },
            "losses": {
                key: _mean(task["losses"][key] for task in tasks.values())
                for key in ("train", "validation", "test")
            },
        },
        "weights_sha256": weights_sha256(trainer.model),
        "timing": {
            "train_seconds": trainer.seconds,
            "steps": trainer.step,
            "milliseconds_per_step": 1000 * trainer.seconds / trainer.step,
        },
        "settings": {
            **settings,
            **trainer.settings(),
            "device": str(trainer.device),
            "torch": torch.__version__,
        },
    }
    write_atomic(
        trainer.output / "report.json", (json.dumps(content, indent=2, default=str) + "\n").encode()
    )
    return content


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def table(report: Mapping[str, Any]) -> str:
    """Returns a report's tasks as a table in plain text, with a key to its columns."""
    metrics = list(report["mean"]["metrics"])
    head = ["task", *metrics, "test loss", "test labels", "train labels", "final weight"]
    body = [
        [
            name,
            *(_number(task["metrics"].get(metric)) for metric in metrics),
            _number(task["losses"]["test"]),
            str(task["labelled"]["test"]),
            str(task["labelled"]["train"]),
            _number(task["weight"]),
        ]
        for name, task in report["tasks"].items()
    ]
    mean = [_number(report["mean"]["metrics"][metric]) for metric in metrics]
    body.append(["mean of all tasks", *mean, _number(report["mean"]["losses"]["test"]), "", "", ""])
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])

    rule = "-" * len(line(head))
    return "\n".join([line(head), rule, *map(line, body[:-1]), rule, line(body[-1]), "", KEY])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw(output: Path, names: Sequence[str], history: Rows) -> None:
    """Draws weights.png and losses.png: a panel for each task, over the epochs."""
    of_task = {name: [row for row in history if row["task"] == name] for name in names}
    epochs = [row["epoch"] for row in of_task[names[0]]]

    # One epoch is a point, not a line.
    style: dict[str, Any] = {"linewidth": 1.8, "marker": "o" if len(epochs) == 1 else None}

    def series(name: str, key: str) -> list[float]:
        return [math.nan if row.get(key) is None else row[key] for row in of_task[name]]

    def weight(axes: Axes, name: str) -> None:
        for other in names:
            axes.plot(epochs, series(other, "weight"), color="#d4d4d4", linewidth=0.8)
        values = series(name, "weight")
        axes.plot(epochs, values, color=BLUE, **style)
        at, last = (epochs[-1], values[-1]), f"{values[-1]:.2f}"
        axes.annotate(last, at, (5, 0), textcoords="offset points", color=BLUE, va="center")
        axes.set_ylim(bottom=0)

    def loss(axes: Axes, name: str) -> None:
        for key, colour in (("train", BLUE), ("validation", ORANGE)):
            if f"{key}_loss" in of_task[name][0]:
                label = "training" if key == "train" else key
                axes.plot(epochs, series(name, f"{key}_loss"), color=colour, label=label, **style)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")

    title = "Weight of each task in the total loss (blue; grey: the other tasks)"
    _panels(output / "weights.png", names, weight, ylabel="weight", title=title, sharey=True)
    title = "Mean loss of each task over its labelled samples"
    _panels(output / "losses.png", names, loss, ylabel="loss (log)", title=title, sharey=False)


def _panels(
    path: Path, names: Sequence[str], panel: Any, *, ylabel: str, title: str, sharey: bool
) -> None:
    """Draws one panel for each name with ``panel(axes, name)`` and saves the picture."""
    from matplotlib.figure import Figure  # half a second, for those who ask for pictures only

    columns = min(len(names), 4 if len(names) <= 12 else 8)
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(max(8, 2.9 * columns + 0.4), 2.2 * lines + 0.9), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=sharey, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(names):
            axes.remove()
            continue
        panel(axes, names[number])
        axes.set_title(names[number], fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
        axes.tick_params(labelsize=8)
        if number % columns == 0:
            axes.set_ylabel(ylabel)
        if number + columns >= len(names):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.tick_params(labelbottom=True)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(handles), frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    content = io.BytesIO()
    figure.savefig(content, dpi=150)
    write_atomic(path, content.getvalue())
