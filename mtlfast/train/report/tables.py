"""What a person reads in a terminal: the bar's figures, a table per epoch, the final table."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

__all__ = ["average", "brief", "listed", "progress", "scored", "short", "table"]

KEY = """Scores and test loss: on test data, which no choice was made on, where the label is known.
Train labels: how many labels of the task the training data holds; the others are missing.
Final weight: the factor of the task's loss in the total at the end of training."""
Rows = list[dict[str, Any]]


def brief(
    names: Sequence[str],
    losses: Sequence[float | None],
    weights: Sequence[float] | None = None,
    most: int = 3,
) -> str:
    """Returns the mean loss and the ``most`` largest, with their weights, for the end of the bar.

    Losses that are None or NaN (no labels yet) are left out.

    Example:
        >>> brief(["digit", "even", "prime"], [1.2, 0.5, None], [0.9, 1.1, 1.0])
        'mean loss 0.850: digit 1.200 x 0.90, even 0.500 x 1.10'
    """
    known = [
        (loss, number)
        for number, loss in enumerate(losses)
        if loss is not None and not math.isnan(loss)
    ]
    largest = heapq.nlargest(most, known, key=itemgetter(0))
    told = [
        f"{short(names[number], 20)} {loss:.3f}" + (f" x {weights[number]:.2f}" if weights else "")
        for loss, number in largest
    ]
    mean = _number(average([loss for loss, _ in known]))
    return f"mean loss {mean}: {', '.join(told)}".rstrip(": ")


def progress(
    epoch: int, epochs: int, rows: Rows, *, seconds: float | None = None, most: int = 12
) -> str:
    """Returns an epoch as a table in plain text: a line per task, and their mean.

    Of more than ``most`` tasks it shows the three with the smallest and the three with the largest
    loss, on validation data if there is any. ``-`` is what is not defined.

    Args:
        epoch: its number, from 1.
        epochs: how many there will be.
        rows: the epoch's rows of the history.
        seconds: since the start.
        most: of how many tasks all are shown.
    """
    validation = scored(rows)
    columns = {"weight": "weight", "train_loss": "train loss", "train_labels": "labels"}
    columns |= {key: key.replace("_", " ") for key in validation}
    if validation:
        columns["validation_labels"] = "validation labels"
    key = "validation_loss" if "validation_loss" in validation else "train_loss"
    shown, gap = rows, list[str]()
    if len(rows) > most:
        ranked = sorted((row for row in rows if row.get(key) is not None), key=lambda row: row[key])
        shown = [*ranked[:3], *ranked[3:][-3:]]
        rest = f"... {len(rows) - len(shown)} more tasks"
        gap = [f"{rest}, sorted by {columns[key]}; all are in history.csv"]
    body = [
        [
            short(row["task"]) + ("" if row.get("active", True) else " (not trained)"),
            *(_number(row.get(column)) for column in columns),
        ]
        for row in shown
    ]
    averaged = {"train_loss", *validation}
    means = [
        _number(average(row.get(column) for row in rows)) if column in averaged else ""
        for column in columns
    ]
    mean = [["mean of all tasks", *means]] if len(rows) > 1 else []
    lines = _aligned([["task", *columns.values()], *body, *mean])
    where = 1 + min(3, len(shown))
    lines[where:where] = gap
    time = "" if seconds is None else f", {seconds:.0f} s"
    return "\n".join([f"epoch {epoch}/{epochs}, step {rows[0]['step']}{time}", *lines])


def table(report: Mapping[str, Any]) -> str:
    """Returns a report's tasks as a table in plain text, with a key to its columns."""
    metrics = list(report["mean"]["metrics"])
    head = ["task", *metrics, "test loss", "test labels", "train labels", "final weight"]
    body = [
        [
            short(name),
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
    first, *lines, last = _aligned([head, *body])
    rule = "-" * len(first)
    return "\n".join([first, rule, *lines, rule, last, "", KEY])


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Returns a table's lines: its first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [zip(line, widths, strict=True) for line in cells]
    return [
        "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])
        for first, *rest in lines
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def short(name: str, most: int = 40) -> str:
    r"""Returns a task's name in one line of at most ``most`` characters, cut in its middle.

    Example:
        >>> short("a name\nin two lines", 12)
        'a name…lines'
    """
    name = "".join(c if c.isprintable() else " " for c in name)
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Returns names in a line, the first ``most`` of them.

    Example:
        >>> listed(["digit", "even", "prime"], 2)
        'digit, even and 1 more'
    """
    rest = len(names) - most
    return ", ".join(map(short, names[:most])) + (f" and {rest} more" if rest > 0 else "")


def scored(rows: Rows) -> list[str]:
    """Returns the keys of history rows that hold the validation loss and metrics."""
    keys = dict.fromkeys(itertools.chain.from_iterable(rows))  # of 617 tasks most are the same
    return [key for key in keys if key.startswith("validation_") and key != "validation_labels"]


def average(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
