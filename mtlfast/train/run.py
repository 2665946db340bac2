"""The record of a run: where it stands, what has come of it so far, and what decides on its end."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlfast.train.rules import Best, Rule
from mtlfast.train.tasks import Task, task_names

__all__ = ["Renewals", "Run"]

# What every row of the history holds, beside validation scores.
ROW = {"epoch": 1, "step": 1, "task": "", "weight": 1.0, "train_loss": None, "train_labels": 1}
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


class Run:
    """The record of a run, which begins at step 0.

    Args:
        tasks: what is learned.
        settings: everything that decides the outcome, as JSON can hold it.
        stopping: rules that end single tasks or the run, as they were made; the run has its own.
        best: the rule that chooses the best epoch, or None; likewise.
        device: where sums are kept.

    Attributes:
        names: of the tasks, in the order of every (T,) vector.
        device: as above.
        step: optimizer steps done.
        seconds: time spent on them.
        history: a row for each epoch and task.
        renewals: which weights held from which step on.
        running: (2, T), the sums of the tasks' losses and their labels in this epoch, on this
            process.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        settings: Mapping[str, Any],
        stopping: Sequence[Rule] = (),
        best: Best | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.tasks, self.names, self.settings = tasks, task_names(tasks), dict(settings)
        self.stopping, self.best = copy.deepcopy((list(stopping), best))
        self.device = device
        self.step, self.seconds = 0, 0.0
        self.history, self.renewals = list[dict[str, Any]](), Renewals()
        exact = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.running = torch.zeros(2, len(self.names), dtype=exact, device=device)

    @property
    def rules(self) -> list[Rule]:
        """What decides by the scores of each epoch."""
        return [*self.stopping, *([] if self.best is None else [self.best])]

    @property
    def stopped(self) -> dict[str, int]:
        """The tasks that a rule has stopped, by their first names, and the epochs after which."""
        return {name: epoch for rule in self.rules for name, epoch in rule.stopped.items()}

    @property
    def ended(self) -> bool:
        """Whether a rule has ended the run."""
        return any(rule.ended for rule in self.rules)

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a resumed run must know; ``running`` is this process's own."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "renewals": self.renewals.state_dict(),
            "rules": [rule.state_dict() for rule in self.rules],
            "running": self.running.cpu(),
        }

    def layout(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns how a state of this run is laid out that has as many rows and renewals.

        Raises:
            ValueError: for a step that is none, or a history of other tasks.
        """
        if not isinstance(state["step"], int) or state["step"] < 0:
            raise ValueError(f"step is {state['step']}")
        if strangers := {row["task"] for row in state["history"]}.difference(self.names):
            raise ValueError(f"history is of {strangers.pop()!r} too")
        count = len(state["renewals"]["steps"])
        weights = torch.zeros(count, len(self.names), dtype=torch.float64)
        own = self.state_dict()
        own["renewals"] |= {"steps": [0] * count, "weights": weights}
        own["history"] = [{**row, **ROW} for row in state["history"]]
        return own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` returned, laid out as ``layout`` says."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
        self.renewals.load_state_dict(state["renewals"])
        for rule, told in zip(self.rules, state["rules"], strict=True):
            rule.load_state_dict(told)
        self.running = state["running"].to(self.running.device)
