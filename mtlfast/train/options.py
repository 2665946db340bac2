"""What a trainer is made with: checked, and told as settings."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_type_hints

import torch
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import is_tensorboard_available
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mtlfast.functional.checks import check_kinds
from mtlfast.train.model import MultiTaskModel
from mtlfast.train.rules import Best, EarlyStopping
from mtlfast.train.schedule import Stage, TaskStopping
from mtlfast.train.tasks import Task, check_tasks, task_names
from mtlfast.weighting import Fixed, Weighting

__all__ = ["Options"]

WHOLE = "a whole number"


@dataclass
class Options:
    """What a ``Trainer`` is made with, where each is explained; one or several come as lists.

    Beside its type stands the kind that is asked of it, and what messages call that.

    Raises:
        TypeError: for the first that is of another kind.
        ValueError: for the first that cannot be.
    """

    model: Annotated[MultiTaskModel, MultiTaskModel, "a MultiTaskModel"]
    tasks: Annotated[Any, Task, "a Task or several"]
    optimizer: Annotated[Optimizer, Optimizer, "a torch optimizer"]
    weighting: Annotated[Any, (Weighting, NoneType), "a weighting of mtlfast.weighting"]
    scheduler: Annotated[Any, (LRScheduler, NoneType), "a torch learning-rate scheduler"]
    stages: Annotated[Any, Stage, "a list of Stages"]
    stopping: Annotated[Any, (TaskStopping, EarlyStopping), "a list of stop rules"]
    best: Annotated[Any, (Best, NoneType), "a name or a Best"]
    precision: str
    accumulate: Annotated[int, Integral, WHOLE]
    clip: Annotated[float | None, (Real, NoneType), "a number"]
    output: Annotated[Any, (str, PathLike, NoneType), "a directory"]
    checkpoint_every: Annotated[int | None, (Integral, NoneType), WHOLE]
    keep: Annotated[int, Integral, WHOLE]
    tensorboard: Annotated[bool, bool, "True or False"]
    seed: Annotated[int, Integral, WHOLE]

    def __post_init__(self) -> None:
        self.tasks, self.stages = _several(self.tasks), _several(self.stages or ())
        # As they are made: what they remember afterwards is a run's own.
        self.stopping = copy.deepcopy(_several(self.stopping))
        self.best = Best(self.best) if isinstance(self.best, str) else copy.deepcopy(self.best)
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            each = value if name in ("tasks", "stages", "stopping") else [value]
            if kind := getattr(hint, "__metadata__", None):
                check_kinds((name, item, *kind) for item in each)
        check_tasks(self.tasks, list(self.model.heads))
        self.output = None if self.output is None else Path(self.output)
        if self.weighting is None:
            self.weighting = Fixed([1.0] * len(task_names(self.tasks)))
        self._check_values()
        self._check_optimizer()
        hidden = ("params", "initial_lr")
        # As they are at first: a scheduler changes them.
        self.groups = [
            {k: v for k, v in group.items() if k not in hidden}
            for group in self.optimizer.param_groups
        ]

    def settings(self) -> dict[str, Any]:
        """Returns everything in it that decides the outcome of a run, as JSON can hold it."""
        plain = ("precision", "accumulate", "clip", "seed")
        return {
            "tasks": [task.settings() for task in self.tasks],
            "stages": [{"tasks": list(s.tasks), "epochs": s.epochs} for s in self.stages],
            "stopping": [repr(rule) for rule in self.stopping],
            "best": self.best and repr(self.best),
            "weighting": repr(self.weighting),
            "optimizer": {"name": type(self.optimizer).__name__, "groups": self.groups},
            "scheduler": self.scheduler and type(self.scheduler).__name__,
            **{name: getattr(self, name) for name in plain},
        }

    def _check_values(self) -> None:
        weighting, precision, scheduler = self.weighting, self.precision, self.scheduler
        length, got = len(task_names(self.tasks)), len(weighting.weights)
        if length != got:
            raise ValueError(f"weighting must have {length} weights, one per task; got {got}.")
        if precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"precision must be 'no', 'bf16' or 'fp16'; got {precision!r}.")
        if precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("precision 'fp16' needs a GPU, and there is none; use 'bf16' or 'no'.")
        if is_initialized() and (first := AcceleratorState().mixed_precision) != precision:
            raise ValueError(
                f"precision must be {first!r}, as in this process's first Trainer; "
                f"got {precision!r}."
            )
        if self.accumulate < 1 or (self.accumulate > 1 and not weighting.linear):
            kind = type(weighting).__name__
            want = "at least 1" if weighting.linear else f"1 with {kind}, which is not linear"
            raise ValueError(f"accumulate must be {want}; got {self.accumulate}.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip must be positive and finite, or None; got {self.clip}.")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must not be negative, and below 2**31; got {self.seed}.")
        for name in ("keep", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if self.tensorboard and not is_tensorboard_available():
            raise ValueError("tensorboard must be installed: pip install 'mtlfast[tensorboard]'.")
        plateau = isinstance(scheduler, ReduceLROnPlateau)
        if plateau or getattr(scheduler, "optimizer", self.optimizer) is not self.optimizer:
            raise ValueError(f"scheduler must be of this optimizer, no plateau; got {scheduler}.")
        if self.output is None and (self.tensorboard or self.best is not None):
            name = "tensorboard" if self.tensorboard else "best"
            raise ValueError(f"{name} needs the trainer's output directory; got None.")
        for rule in (*self.stopping, *_several(self.best or ())):
            rule.check(self.tasks)

    def _check_optimizer(self) -> None:
        """Checks that everything that learns is in the optimizer."""
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        owners: dict[str, nn.Module] = {"model": self.model, "weighting": self.weighting}
        owners |= {f"loss of {task}": task.module for task in self.tasks if task.module is not None}
        for owner, module in owners.items():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and id(parameter) not in held:
                    raise ValueError(
                        f"optimizer must hold the {owner}'s parameter {name}, or the parameter be "
                        "frozen; make the optimizer after all changes to the model."
                    )


def _several(given: Any) -> list[Any]:
    """Returns one or several as a list."""
    return list(given) if isinstance(given, Iterable) else [given]
