"""What is remembered of a run: rows for each epoch, renewals of the weights, and history.csv."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlfast.train.tables import scored
from mtlfast.writing import write_atomic

__all__ = ["Renewals", "rows", "scalars", "with_renewals", "write_history"]

Rows = list[dict[str, Any]]

# Numbers to remember at most: weights that change in every step would need memory without end.
MOST = 100_000
# But so many renewals, however many tasks there are.
LEAST = 100


class Renewals:
    """Which weights held from which step on; the first are those that a run began with.

    No step waits for the device: weights are copied there, and compared at the next ``look``. Of
    more renewals than 100,000 numbers hold, every second is kept, then every fourth, and so on.

    Example:
        >>> renewals = Renewals()
        >>> renewals.begin(0, [1.0, 1.0])
        >>> for step, weights in enumerate([[1.0, 1.0], [0.5, 1.5], [0.5, 1.5]], 1):
        ...     renewals.add(step, torch.tensor(weights))
        >>> renewals.look(torch.ones(2))
        >>> list(renewals)
        [(0, [1.0, 1.0]), (2, [0.5, 1.5])]
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._weights: list[list[float]] = []
        # How many there were, and of how many in a row one is kept.
        self._count, self._stride = 0, 1
        self._newest: list[float] | None = None
        self._waiting: list[tuple[int, Tensor]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[tuple[int, list[float]]]:
        return zip(self._steps, self._weights, strict=True)

    def begin(self, step: int, weights: Sequence[float]) -> None:
        """Takes the weights that a run begins or goes on with."""
        self._newest = list(weights)
        if not self._steps:
            self._keep(step, self._newest)

    def add(self, step: int, weights: Tensor) -> None:
        """Takes the weights after a step, (T,), without a look at them."""
        self._waiting.append((step, weights.clone()))

    def look(self, static: Tensor) -> None:
        """Keeps what has changed since the last look; times the tasks' own weights, (T,)."""
        if not self._waiting:
            return
        steps, weights = zip(*self._waiting, strict=True)
        self._waiting.clear()
        for step, row in zip(steps, (torch.stack(weights) * static).tolist(), strict=True):
            if row != self._newest:
                self._newest = row
                self._keep(step, row)

    def _keep(self, step: int, weights: list[float]) -> None:
        if self._count % self._stride == 0:
            self._steps.append(step)
            self._weights.append(weights)
        self._count += 1
        if len(self._steps) > max(LEAST, MOST // len(weights)):
            del self._steps[1::2], self._weights[1::2]
            self._stride *= 2

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a resumed run must know."""
        weights = torch.tensor(self._weights, dtype=torch.float64)
        numbers = {"count": self._count, "stride": self._stride}
        return {"steps": list(self._steps), "weights": weights, **numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` returned."""
        self._steps, self._weights = list(state["steps"]), state["weights"].tolist()
        self._count, self._stride = state["count"], state["stride"]


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
        while step <= epoch[0].get("step", 0):
            for row, weight in zip(epoch, weights, strict=True):
                if step < row["step"]:
                    place = {"epoch": row["epoch"], "step": step, "event": "renewal"}
                    yield place | {"task": row["task"], "active": row["active"], "weight": weight}
            step, weights = next(waiting, (math.inf, ()))
        for row in epoch:
            yield {"epoch": row["epoch"], "step": row.get("step"), "event": "epoch"} | row


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
