"""Stages: which tasks are trained in which epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtlfast.train.tasks import Task, task_names

__all__ = ["Stage", "active_tasks", "check_finite", "check_stages"]


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

    Example:
        >>> [Stage(["character", "region"], 5), Stage(["text", "character"], 20)][0].epochs
        5
    """

    tasks: Sequence[str]
    epochs: int


def check_stages(stages: Sequence[Stage], tasks: Sequence[Task], epochs: int) -> None:
    """Checks stages against the task list and the length of the run.

    Raises:
        ValueError: for an unknown task, a group named in part, or stages that do not fill
            ``epochs``.
    """
    known = task_names(tasks)
    for number, stage in enumerate(stages, 1):
        named = set(stage.tasks)
        if not named or not named <= set(known) or stage.epochs < 1:
            raise ValueError(
                f"stage {number} must name tasks of {known} and last an epoch; got {stage}."
            )
        for task in tasks:
            if 0 < len(named & set(task.names)) < len(task.names):
                raise ValueError(
                    f"stage {number} must name all of {list(task.names)} or none of them."
                )
    total = sum(stage.epochs for stage in stages)
    if stages and total != epochs:
        raise ValueError(
            f"stages must last {epochs} epochs together, as the run does; got {total}."
        )


def active_tasks(stages: Sequence[Stage], tasks: Sequence[Task], epoch: int) -> list[Task]:
    """Returns the tasks that are trained in ``epoch``, counted from 0; without stages, all."""
    for stage in stages:
        if epoch < stage.epochs:
            return [task for task in tasks if task.names[0] in stage.tasks]
        epoch -= stage.epochs
    return list(tasks)


def check_finite(learned: Mapping[str, Mapping[str, Any]], epoch: int) -> None:
    """Stops a run in which a task's mean loss over an epoch is not finite.

    Raises:
        FloatingPointError: with the task's name.
    """
    for name, task in learned.items():
        if task["loss"] is not None and not math.isfinite(task["loss"]):
            raise FloatingPointError(
                f"the loss of task {name!r} became {task['loss']} in epoch {epoch + 1}; "
                "the newest checkpoint is from before it."
            )
