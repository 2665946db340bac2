"""Rules, which decide by the scores of each epoch: the best evaluation of a run, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtlfast.functional.checks import check_kinds, check_scalar, check_whole
from mtlfast.train.tasks import Task

__all__ = ["Best", "EarlyStopping", "Rule", "Scores", "quantity"]

Scores = Mapping[str, Mapping[str, Any]]
# Where one of these is part of a quantity's name, less is better.
MINIMISED = ("error", "loss", "distance")


def quantity(scores: Scores, name: str) -> float | None:
    """Returns the quantity ``name`` of an evaluation, None where it is not defined.

    ``"loss"`` is the mean over the tasks of their losses, ``"accuracy"`` of that metric; tasks in
    which it is None are left out. ``"digit/accuracy"`` is that of one task.

    Args:
        scores: {task: {"loss": float or None, "metrics": {metric: float or None}}}.
        name: as above.

    Raises:
        ValueError: for an unknown name, with the known ones.

    Example:
        >>> scores = {"a": {"loss": 1.0, "metrics": {}}, "b": {"loss": 2.0, "metrics": {}}}
        >>> quantity(scores, "loss"), quantity(scores, "b/loss")
        (1.5, 2.0)
    """
    known: dict[str, list[float | None]] = {}
    for task, score in scores.items():
        for key, value in ({"loss": score["loss"]} | score["metrics"]).items():
            known.setdefault(key, []).append(value)
            known[f"{task}/{key}"] = [value]
    if name not in known:
        raise ValueError(f"metric must be one of {', '.join(known)}; got {name!r}.")
    values = [value for value in known[name] if value is not None]
    return math.fsum(values) / len(values) if values else None


class Rule:
    """What is asked once per evaluation, after each epoch, on the host.

    It decides by what it is given: with several processes, give each the same numbers.

    Attributes:
        check: called with all tasks before any work; raises ValueError where the rule cannot
            decide on them.
        update: takes note of an evaluation, by keywords: ``tasks``, all of them; ``learned``,
            {task name: {"loss": mean training loss of the epoch, or None}}; ``scores``, the same of
            the validation data, as ``Trainer.evaluate`` returns it; and the ``epoch``.
        state_dict, load_state_dict: what the rule remembers, as JSON can hold it.
        stopped: {first name of a task that the rule has stopped: epoch after which it did}.
    """

    check: Callable[[Sequence[Task]], None]
    update: Callable[..., Any]
    state_dict: Callable[[], dict[str, Any]]
    load_state_dict: Callable[[Mapping[str, Any]], None]

    def __init__(self) -> None:
        self.stopped: dict[str, int] = {}

    @property
    def ended(self) -> bool:
        """Whether the run must end."""
        return False


class Best(Rule):
    """The best value of a quantity so far, and the epoch it is from.

    Args:
        metric: a name as ``quantity`` takes it.
        mode: ``"min"`` or ``"max"``, which is better. By default ``"min"`` where the quantity's
            name contains error, loss or distance.
        min_change: by how much a value must be better than the best to replace it.

    Raises:
        TypeError: for a metric that is no name, or a ``min_change`` that is no number.
        ValueError: for another mode, or a negative ``min_change``.

    Attributes:
        value: the best value; None before there is one.
        epoch: the epoch it is from, or None.

    Example:
        >>> best = Best("a/accuracy")
        >>> scores = [{"a": {"loss": 0.0, "metrics": {"accuracy": x}}} for x in (0.5, 0.8, 0.7)]
        >>> [best.update(score, epoch) for epoch, score in enumerate(scores, 1)], best.value
        ([True, True, False], 0.8)
    """

    def __init__(
        self, metric: str = "loss", mode: str | None = None, min_change: float = 0.0
    ) -> None:
        check_kinds([("metric", metric, str, "a name")])
        if not (mode is None or (isinstance(mode, str) and mode in ("min", "max"))):
            raise ValueError(f"mode must be 'min', 'max' or None; got {mode!r}.")
        super().__init__()
        check_scalar("min_change", min_change)
        if not 0 <= min_change < math.inf:
            raise ValueError(f"min_change must be finite and not negative; got {min_change}.")
        less = any(word in metric.rpartition("/")[2] for word in MINIMISED)
        self.metric, self.mode = metric, mode or ("min" if less else "max")
        self.min_change = min_change
        self.value: float | None = None
        self.epoch: int | None = None

    def __repr__(self) -> str:
        change = f", min_change={self.min_change}" if self.min_change else ""
        return f"Best({self.metric!r}, mode={self.mode!r}{change})"

    def check(self, tasks: Sequence[Task]) -> None:
        """Checks that these tasks give the quantity, before any work.

        Raises:
            ValueError: where they do not, with the names they give.
        """
        nothing = [{"loss": None, "metrics": dict.fromkeys(task.metrics)} for task in tasks]
        pairs = zip(tasks, nothing, strict=True)
        quantity({name: score for task, score in pairs for name in task.names}, self.metric)

    def update(self, scores: Scores, epoch: int, **_: Any) -> bool:
        """Returns whether this evaluation is the best so far; one that is not defined is not."""
        value = quantity(scores, self.metric)
        if value is None or not math.isfinite(value):
            return False
        if self.value is not None:
            gain = self.value - value if self.mode == "min" else value - self.value
            if not gain > self.min_change:
                return False
        self.value, self.epoch = value, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """Returns the quantity's name, its best value and the epoch, as report.json has them."""
        return {"metric": self.metric, "value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` returned.

        Raises:
            ValueError: where that was of another quantity.
        """
        if state["metric"] != self.metric:
            raise ValueError(f"metric must be {self.metric!r}, as here; got {state['metric']!r}.")
        self.value, self.epoch = state["value"], state["epoch"]


class EarlyStopping(Rule):
    """Ends a run that no longer gets better on validation data.

    Args:
        patience: after how many evaluations in a row without improvement the run ends.
        metric: the quantity that must improve, a name as ``quantity`` takes it.
        mode: as for ``Best``.
        min_change: a smaller change is no improvement.

    Raises:
        ValueError: for a patience below 1, and as ``Best``.

    Attributes:
        best: the best evaluation, a ``Best``: that of the checkpoint to keep.
        waited: evaluations since then.

    Example:
        >>> rule = EarlyStopping(2)
        >>> losses = (3.0, 1.0, 2.0, 1.5)
        >>> [rule.stop({"a": {"loss": x, "metrics": {}}}, i) for i, x in enumerate(losses, 1)]
        [False, False, False, True]
    """

    def __init__(
        self,
        patience: int,
        metric: str = "loss",
        *,
        mode: str | None = None,
        min_change: float = 0.0,
    ) -> None:
        super().__init__()
        check_whole("patience", patience, 1)
        self.patience, self.waited = patience, 0
        self.best = Best(metric, mode, min_change)

    def __repr__(self) -> str:
        return f"EarlyStopping({self.patience}, {self.best})"

    def check(self, tasks: Sequence[Task]) -> None:
        """Checks that these tasks give the quantity; raises ValueError where they do not."""
        self.best.check(tasks)

    @property
    def ended(self) -> bool:
        """Whether the run must end."""
        return self.waited >= self.patience

    def update(self, scores: Scores, epoch: int, **_: Any) -> bool:
        """Does as ``stop``, which may be overridden."""
        return self.stop(scores, epoch)

    def stop(self, scores: Scores, epoch: int) -> bool:
        """Takes note of an evaluation and returns whether the run must end.

        An evaluation in which the quantity is None (no labels) says nothing and is not counted; one
        in which it is not finite is no improvement.
        """
        if self.best.update(scores, epoch):
            self.waited = 0
        elif quantity(scores, self.best.metric) is not None:
            self.waited += 1
        return self.ended

    def state_dict(self) -> dict[str, Any]:
        """Returns what the rule remembers, as JSON can hold it."""
        return {"waited": self.waited, "best": self.best.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` returned."""
        self.waited = state["waited"]
        self.best.load_state_dict(state["best"])
