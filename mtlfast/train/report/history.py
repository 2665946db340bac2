"""history.csv, and the rows that it is made of: one for each epoch and task."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtlfast.train.report.tables import scored
from mtlfast.writing import write_atomic

__all__ = ["rows", "scalars", "with_renewals", "write_history"]

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
    told = {"weight", "train_loss", *scored(rows)}
    return {
        f"{key}/{row['task']}": value
        for row in rows
        for key, value in row.items()
        if key in told and value is not None
    }


def with_renewals(
    history: Rows, renewals: Iterable[tuple[int, Sequence[float]]]
) -> Iterator[dict[str, Any]]:
    """Yields the rows of history.csv in the order of their steps: ``event`` says what one is.

    ``"epoch"`` is a row of ``history``; ``"renewal"`` a task's weight from that step on, where the
    weighting changed any, from the one that the run began with, at step 0. A renewal by an epoch's
    last step is in that epoch's rows. Those of an epoch that goes on are left out, and without a
    renewal there is no row but the epochs'.

    Args:
        history: the epochs' rows.
        renewals: steps, and the weights from then on in the order of an epoch's rows.
    """
    given = list(renewals)
    waiting = iter(given if len(given) > 1 else ())
    step, weights = next(waiting, (math.inf, ()))
    for _, group in itertools.groupby(history, lambda row: row["epoch"]):
        epoch = list(group)
        while step <= epoch[0]["step"]:
            for row, weight in zip(epoch, weights, strict=True):
                if step < row["step"]:
                    place = {"epoch": row["epoch"], "step": step, "event": "renewal"}
                    yield place | {"task": row["task"], "active": row["active"], "weight": weight}
            step, weights = next(waiting, (math.inf, ()))
        for row in epoch:
            yield {"epoch": row["epoch"], "step": row["step"], "event": "epoch"} | row


def write_history(
    output: Path, history: Rows, renewals: Iterable[tuple[int, Sequence[float]]] = ()
) -> None:
    """Writes history.csv, the rows of ``with_renewals``, empty where something is not defined.

    With pandas, the curves of losses and scores and the weights in use after each step are:

        rows = pandas.read_csv("history.csv")
        curves = rows[rows.event == "epoch"]
        weights = rows.pivot(index="step", columns="task", values="weight")
    """
    text = io.StringIO()
    keys = dict.fromkeys(itertools.chain.from_iterable(with_renewals(history, ())))
    writer = csv.writer(text)
    writer.writerow(keys)
    writer.writerows(map(row.get, keys) for row in with_renewals(history, renewals))
    write_atomic(output / "history.csv", text.getvalue().encode(errors="backslashreplace"))
