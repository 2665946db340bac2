"""Which tasks are trained when: stages, and the rule that stops a task."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtlfast.functional.checks import check_kinds, check_scalar, check_whole
from mtlfast.train.rules import Rule, Scores
from mtlfast.train.tasks import Task, task_names

__all__ = ["Stage", "TaskStopping", "active_tasks", "check_stages", "stop_ratio"]


@dataclass(frozen=True)
class Stage:
    """Some epochs in which only the named tasks are trained.

    A task outside the stage gives no loss, no gradient and no optimizer update: its head does not
    run. It is not observed either, so an adaptive weight stays as it is once a window has passed.
    A group stops and goes on as a whole, as does an output that two tasks share, which runs while
    one of them does.

    Args:
        tasks: names of the tasks that are trained.
        epochs: for how many epochs.

    Raises:
        TypeError: for tasks that are no list of names, or epochs that are no whole number.

    Example:
        >>> [Stage(["character", "region"], 5), Stage(["text", "character"], 20)][0].epochs
        5
    """

    tasks: Sequence[str]
    epochs: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(sorted(_names(self.tasks))))
        check_whole("epochs", self.epochs, 1)


def check_stages(stages: Sequence[Stage], tasks: Sequence[Task], epochs: int) -> None:
    """Checks stages against the task list and the length of the run.

    Raises:
        ValueError: for an unknown task, a group named in part, or stages that do not fill
            ``epochs``.
    """
    known = task_names(tasks)
    for number, stage in enumerate(stages, 1):
        named = set(stage.tasks)
        if not named or not named <= set(known):
            raise ValueError(f"stage {number} must name tasks of {known}; got {stage}.")
        _check_whole(f"stage {number}", named, tasks)
    total = sum(stage.epochs for stage in stages)
    if stages and total != epochs:
        raise ValueError(
            f"stages must last {epochs} epochs together, as the run does; got {total}."
        )


def active_tasks(
    stages: Sequence[Stage], tasks: Sequence[Task], epoch: int, stopped: Collection[str] = ()
) -> list[Task]:
    """Returns the tasks that are trained in ``epoch``; where the list is empty, none is left.

    Args:
        stages: as ``check_stages`` accepts them; without stages, every task is trained.
        tasks: all tasks.
        epoch: counted from 0.
        stopped: the first names of tasks that have been stopped for good.
    """
    going = [task for task in tasks if task.names[0] not in stopped]
    for stage in stages:
        if epoch < stage.epochs:
            return [task for task in going if task.names[0] in stage.tasks]
        epoch -= stage.epochs
    return going


def stop_ratio(train_errors: Sequence[float], validation_error: float, weight: float) -> float:
    """Returns how much speaks for stopping an auxiliary task: the left side of TCDCN's rule.

    With k the number of training errors, med, sum and min theirs, and v the validation error:

        k med / (sum - k med) * (v - min) / (weight min)

    The first factor is large where the training error hardly falls any more, the second where the
    task does not generalise. Its denominator is positive where the fall slows down. It is not for
    a window that is flat, falls evenly or ever faster: the task is not converging by this rule, the
    ratio is 0 and the task goes on. A plateau is not lost by that: it is never flat for long, and
    the least convexity makes the ratio large. A training error or weight of 0 gives infinity.

    Args:
        train_errors: training errors of the last k evaluations, oldest first, all at least 0.
        validation_error: the newest validation error.
        weight: the task's static weight, lambda.

    Returns:
        The ratio; at most 0 where the validation error is no larger than the least training error.

    Raises:
        ValueError: for a negative training error or no training error.

    Source: Zhang et al., Facial Landmark Detection by Deep Multi-task Learning, ECCV 2014, on
    task-wise early stopping; there the minimum runs over all training errors so far.

    Example:
        >>> round(stop_ratio([1, 0.5, 0.25, 0.125, 0.0625], 0.28, weight=1.0), 4)
        6.3273
    """
    if not train_errors or min(train_errors) < 0:
        raise ValueError(f"train_errors must not be empty or negative; got {list(train_errors)}.")
    middle = len(train_errors) * statistics.median(train_errors)
    # fsum: a flat window must give exactly 0 here.
    bend = math.fsum(train_errors) - middle
    least = min(train_errors)
    gap, scale = validation_error - least, weight * least
    if not (bend > 0 and abs(gap) > 0):
        return 0.0
    return middle / bend * gap / scale if scale else math.copysign(math.inf, gap)


class TaskStopping(Rule):
    """Task-wise early stopping as in TCDCN: an auxiliary task that has had its use is left out.

    A task stops where ``stop_ratio`` of its last ``window`` evaluations exceeds ``threshold``, and
    stays so. There is no decision before ``window`` evaluations in a row in which the task has a
    training loss, nor without a validation loss. A group stops as a whole, by the mean errors over
    those of its members that have all these losses.

    Args:
        tasks: names of the tasks that may stop, all of a group or none; by default those made with
            ``auxiliary=True``. The others, as the main task, never stop.
        window: k, how many evaluations are looked at, at least 3: two have no bend.
        threshold: the ratio above which a task stops, positive. The paper leaves it open.

    Raises:
        TypeError: for tasks that are no list of names, or numbers that are none.
        ValueError: for a window or threshold out of range.

    Attributes:
        stopped: {first name of the task: epoch after which it stopped}.

    Example:
        >>> TaskStopping(["glasses", "smile"], threshold=5.0)
        TaskStopping(tasks=['glasses', 'smile'], window=5, threshold=5.0)
    """

    def __init__(
        self, tasks: Sequence[str] | None = None, *, window: int = 5, threshold: float
    ) -> None:
        super().__init__()
        check_whole("window", window, 3)
        check_scalar("threshold", threshold)
        if not threshold > 0:
            raise ValueError(f"threshold must be positive; got {threshold}.")
        self.tasks = tasks if tasks is None else _names(tasks)
        self.window, self.threshold = window, threshold
        self._errors: dict[str, list[list[float | None]]] = {}

    def __repr__(self) -> str:
        return f"TaskStopping(tasks={self.tasks}, window={self.window}, threshold={self.threshold})"

    def watched(self, tasks: Sequence[Task]) -> list[Task]:
        """Returns those of ``tasks`` that may stop.

        Raises:
            ValueError: for an unknown task, a group named in part, or no task at all.
        """
        if self.tasks is None:
            found = [task for task in tasks if task.auxiliary]
        else:
            named, known = set(self.tasks), task_names(tasks)
            if not named <= set(known):
                raise ValueError(f"TaskStopping must name tasks of {known}; got {self.tasks}.")
            _check_whole("TaskStopping", named, tasks)
            found = [task for task in tasks if task.names[0] in named]
        if not found:
            raise ValueError("TaskStopping must name tasks, or a task be auxiliary; got none.")
        return found

    def check(self, tasks: Sequence[Task]) -> None:
        """Raises ValueError as ``watched``."""
        self.watched(tasks)

    def update(
        self, tasks: Sequence[Task], learned: Scores, scores: Scores, epoch: int
    ) -> list[str]:
        """Takes note of an evaluation and returns the first names of the tasks that it stops.

        Raises:
            ValueError: where a training loss of a task that may stop is negative.
        """
        now = []
        for task in self.watched(tasks):
            first = task.names[0]
            if first in self.stopped:
                continue
            past = [*self._errors.get(first, []), [learned[name]["loss"] for name in task.names]]
            self._errors[first] = past = past[-self.window :]
            newest = [scores[name]["loss"] if name in scores else None for name in task.names]
            members = [
                column
                for column in zip(*past, newest, strict=True)
                if all(value is not None for value in column)
            ]
            if len(past) < self.window or not members:
                continue
            *errors, error = (statistics.fmean(values) for values in zip(*members, strict=True))
            if min(errors) < 0:
                raise ValueError(
                    f"TaskStopping needs losses of at least 0; task {first!r} has {min(errors)}."
                )
            if stop_ratio(errors, error, task.weight) > self.threshold:
                now.append(first)
        for first in now:
            self.stopped[first] = epoch
            del self._errors[first]
        return now

    def state_dict(self) -> dict[str, Any]:
        """Returns what the rule remembers, as JSON can hold it."""
        errors = {name: [list(values) for values in past] for name, past in self._errors.items()}
        return {"stopped": dict(self.stopped), "errors": errors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` returned."""
        self.stopped = dict(state["stopped"])
        self._errors = {
            name: [list(values) for values in past] for name, past in state["errors"].items()
        }


def _names(tasks: Any) -> list[str]:
    """Returns names as a list; raises TypeError where they are none."""
    if isinstance(tasks, str):
        raise TypeError(f"tasks must be a list of names; got {tasks!r}: write [{tasks!r}].")
    check_kinds([("tasks", tasks, Iterable, "a list of names")])
    names = list(tasks)
    check_kinds((f"tasks[{n}]", name, str, "a name") for n, name in enumerate(names))
    return names


def _check_whole(what: str, named: set[str], tasks: Sequence[Task]) -> None:
    for task in tasks:
        if 0 < len(named & set(task.names)) < len(task.names):
            raise ValueError(f"{what} must name all of {list(task.names)} or none of them.")
