"""The record of a run: where it stands, what has come of it so far, and what decides on its end."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mtlfast.train.checkpoint import misfit
from mtlfast.train.renewals import Renewals
from mtlfast.train.rules import Best, Rule
from mtlfast.train.tasks import Task, task_names

__all__ = ["Run"]

# What every row of the history holds, beside validation scores.
ROW = {"epoch": 1, "step": 1, "task": "", "weight": 1.0, "train_loss": None, "train_labels": 1}


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

    def afresh(self) -> Run:
        """Returns a record of the same run at its start, with the rules as they are now."""
        return Run(self.tasks, self.settings, self.stopping, self.best, self.device)

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

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on, from the start, from what ``state_dict`` returned.

        Raises:
            ValueError: where that is laid out otherwise than this run's.
        """
        own = self.state_dict()
        count = len(state["renewals"]["steps"])
        weights = torch.zeros(count, len(self.names), dtype=torch.float64)
        own["renewals"] |= {"steps": [0] * count, "weights": weights}
        odd = misfit(own, {name: state[name] for name in own})
        if not odd and (isinstance(state["step"], float) or state["step"] < 0):
            odd = f"step is {state['step']}"
        for number, row in enumerate(() if odd else state["history"]):
            odd = odd or misfit(ROW, {name: row[name] for name in ROW}, f"history[{number}]")
            if row["task"] not in self.names:
                odd = odd or f"history[{number}].task is {row['task']!r}"
        if odd:
            raise ValueError(odd)
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
        self.renewals.load_state_dict(state["renewals"])
        for rule, told in zip(self.rules, state["rules"], strict=True):
            rule.load_state_dict(told)
        self.running = state["running"].to(self.running.device)
