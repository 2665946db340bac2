"""What is checked before any work: a trainer's options, and its data."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import is_tensorboard_available, slice_tensors
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mtlfast.functional.checks import check_whole
from mtlfast.train import randomness
from mtlfast.train.best import Best, EarlyStopping
from mtlfast.train.joint import evaluating
from mtlfast.train.kinds import check_kinds
from mtlfast.train.model import MultiTaskModel
from mtlfast.train.reading import Source
from mtlfast.train.sampler import Plan
from mtlfast.train.schedule import Stage, TaskStopping, check_stages
from mtlfast.train.tasks import Task, check_tasks
from mtlfast.weighting import Weighting
from mtlfast.writing import brief

if TYPE_CHECKING:
    from mtlfast.train.trainer import Trainer

__all__ = ["check_fit", "check_options", "check_plan", "check_source", "check_types", "several"]


def several(given: Any) -> list[Any]:
    """Returns one or several as a list."""
    return list(given) if isinstance(given, Iterable) else [given]


def check_types(trainer: Trainer, optimizer: Any, weighting: Any, output: Any) -> None:
    """Checks the kinds of what a trainer was made with.

    Raises:
        TypeError: for the first that is of another kind.
        ValueError: for tasks that cannot be.
    """
    scheduler: Any = trainer.scheduler
    given: list[tuple[str, Any, Any, str]] = [
        ("model", trainer.model, MultiTaskModel, "a MultiTaskModel"),
        ("optimizer", optimizer, Optimizer, "a torch optimizer"),
        ("weighting", weighting, (Weighting, NoneType), "a weighting of mtlfast.weighting"),
        ("output", output, (str, PathLike, NoneType), "a directory"),
        ("best", trainer.best, (Best, NoneType), "a name or a Best"),
        ("accumulate", trainer.accumulate, Integral, "a whole number"),
        ("keep", trainer.keep, Integral, "a whole number"),
        ("checkpoint_every", trainer.checkpoint_every, (Integral, NoneType), "a whole number"),
        ("seed", trainer.seed, Integral, "a whole number"),
        ("clip", trainer.clip, (Real, NoneType), "a number"),
        ("tensorboard", trainer.tensorboard, bool, "True or False"),
        ("scheduler", scheduler, (LRScheduler, NoneType), "a torch learning-rate scheduler"),
        *(("tasks", task, Task, "a Task or several") for task in trainer.tasks),
        *(("stages", stage, Stage, "a list of Stages") for stage in trainer.stages),
        *(
            ("stopping", rule, TaskStopping | EarlyStopping, "a list of stop rules")
            for rule in trainer.stopping
        ),
    ]
    check_kinds(given)
    check_tasks(trainer.tasks, list(trainer.model.heads))


def check_options(trainer: Trainer, optimizer: Optimizer) -> None:
    """Checks what a trainer was made with.

    Raises:
        ValueError: for the first option that cannot be.
    """
    weighting, precision, scheduler = trainer.weighting, trainer.precision, trainer.scheduler
    length, got = len(trainer.names), len(weighting.weights)
    if length != got:
        raise ValueError(f"weighting must have {length} weights, one per task; got {got}.")
    if precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"precision must be 'no', 'bf16' or 'fp16'; got {precision!r}.")
    if precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision 'fp16' needs a GPU, and there is none; use 'bf16' or 'no'.")
    if is_initialized() and (first := AcceleratorState().mixed_precision) != precision:
        raise ValueError(
            f"precision must be {first!r}, as in this process's first Trainer; got {precision!r}."
        )
    if trainer.accumulate < 1 or (trainer.accumulate > 1 and not weighting.linear):
        kind = type(weighting).__name__
        want = "at least 1" if weighting.linear else f"1 with {kind}, which is not linear"
        raise ValueError(f"accumulate must be {want}; got {trainer.accumulate}.")
    if trainer.clip is not None and not 0 < trainer.clip < math.inf:
        raise ValueError(f"clip must be positive and finite, or None; got {trainer.clip}.")
    if not 0 <= trainer.seed < 2**31:
        raise ValueError(f"seed must not be negative, and below 2**31; got {trainer.seed}.")
    for name in ("keep", "checkpoint_every"):
        value = getattr(trainer, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    if trainer.tensorboard and not is_tensorboard_available():
        raise ValueError("tensorboard must be installed: pip install 'mtlfast[tensorboard]'.")
    plateau = isinstance(scheduler, ReduceLROnPlateau)
    if plateau or getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError(f"scheduler must be of this optimizer, no plateau; got {scheduler}.")
    if trainer.output is None and (trainer.tensorboard or trainer.best is not None):
        name = "tensorboard" if trainer.tensorboard else "best"
        raise ValueError(f"{name} needs the trainer's output directory; got None.")
    for rule in trainer.stopping:
        if isinstance(rule, TaskStopping):
            rule.watched(trainer.tasks)
        else:
            rule.check(trainer.tasks)
    if trainer.best is not None:
        trainer.best.check(trainer.tasks)
    _check_optimizer(trainer, optimizer)


def _check_optimizer(trainer: Trainer, optimizer: Optimizer) -> None:
    """Checks that everything that learns is in the optimizer."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    owners: dict[str, nn.Module] = {"model": trainer.model, "weighting": trainer.weighting}
    owners |= {f"loss of {task}": task.module for task in trainer.tasks if task.module is not None}
    for owner, module in owners.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in held:
                raise ValueError(
                    f"optimizer must hold the {owner}'s parameter {name}, or the parameter be "
                    "frozen; make the optimizer after all changes to the model."
                )


def check_fit(
    trainer: Trainer,
    data: Mapping[str, Sequence[Source]],
    epochs: int,
    batch_size: int,
    weight_batch_size: int | None,
    flags: Mapping[str, bool],
) -> None:
    """Checks what a run is given.

    Raises:
        ValueError: for the first thing that cannot be.
    """
    check_kinds((name, flag, bool, "True or False") for name, flag in flags.items())
    sizes = {"epochs": epochs, "batch_size": batch_size, "weight_batch_size": weight_batch_size}
    for name, size in sizes.items():
        if size is not None or name != "weight_batch_size":
            check_whole(name, size, 1)
    weighting = trainer.weighting
    if weighting.observes and not data["weight_data"]:
        kind = type(weighting).__name__
        raise ValueError(f"{kind} learns from weight_data; got None.")
    if not data["validation"] and (trainer.stopping or trainer.best is not None):
        name = "stopping" if trainer.stopping else "best"
        raise ValueError(f"{name} needs validation data; got None.")
    if flags["resume"] and trainer.output is None:
        raise ValueError("resume needs the trainer's output directory; got None.")
    check_stages(trainer.stages, trainer.tasks, epochs)
    watched = data["weight_data"] if weighting.observes else []
    for role in ("dataset", "validation"):
        if any(source.data.shares(other.data) for source in data[role] for other in watched):
            raise ValueError(f"weight_data must be other data than {role}; got the same rows.")
    for sources in data.values():
        for source in sources:
            check_source(trainer, source)


def check_source(trainer: Trainer, source: Source) -> None:
    """Checks that a data set has labels for its tasks, and that what the model makes of it fits.

    Raises:
        ValueError: where it has not, or does not.
    """
    source.check()
    device, autocast = trainer.device, trainer.accelerator.autocast()
    batch = source.first(device)
    with evaluating(trainer.joint), autocast, randomness.kept(device):
        outputs = trainer.joint.outputs(batch)
    for task in source.tasks:
        output = outputs[task.output]
        task.check_output(output, batch.targets[task.target], source.row)
        source.classes[task.output] = output.shape[1] if output.dim() > 1 else 1
    source.check_held()


def check_plan(trainer: Trainer, sources: Sequence[Source], plan: Plan, epochs: int) -> None:
    """Checks that every micro-batch can be trained on.

    Raises:
        ValueError: where one cannot.
    """
    weighting, steps = trainer.weighting, epochs * len(plan)
    several = plan.sampling == "max_size_cycle" and len(plan.lengths) > 1
    if several and not weighting.linear:
        kind = type(weighting).__name__
        raise ValueError(
            f"{kind} is not linear and needs all tasks in one batch; got sampling 'max_size_cycle'."
        )
    interval = getattr(weighting, "interval", 0)
    if 2 * interval > steps and interval > 1:
        warnings.warn(
            f"weights are first renewed after two intervals of {interval} steps, and the run has "
            f"{steps}: choose an interval of at most {max(1, steps // 21)}.",
            stacklevel=3,
        )
    shares = plan.micro * plan.processes
    for source, length in zip(sources, plan.lengths, strict=True):
        last = length % plan.batch_size or plan.batch_size
        if last < shares and plan.processes > 1:
            _try(trainer, source, 0, "leave samples for every process")
        if last // shares < 2:
            _try(trainer, source, 1, "leave each process more than 1 sample")


def _try(trainer: Trainer, source: Source, rows: int, wanted: str) -> None:
    """Checks that a copy of the model takes so few samples in training."""
    inputs = slice_tensors(source.first(trainer.device).inputs, slice(0, rows))
    model, autocast = copy.deepcopy(trainer.model), trainer.accelerator.autocast()
    try:
        with torch.no_grad(), autocast, randomness.kept(trainer.device):
            model(inputs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"batch_size must {wanted} in the last micro-batch of an epoch, as the model does not "
            f"take {rows}: {brief(error)}."
        ) from error
