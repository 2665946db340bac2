"""What is checked before any work: a trainer's options, and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mtlfast.train.data import Samples
from mtlfast.train.joint import evaluating
from mtlfast.train.reading import Source
from mtlfast.train.sampler import Plan
from mtlfast.train.schedule import TaskStopping, check_stages

if TYPE_CHECKING:
    from mtlfast.train.trainer import Trainer

__all__ = ["check_fit", "check_options", "check_plan"]


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
    if trainer.accumulate < 1 or (trainer.accumulate > 1 and not weighting.linear):
        kind = type(weighting).__name__
        want = "at least 1" if weighting.linear else f"1 with {kind}, which is not linear"
        raise ValueError(f"accumulate must be {want}; got {trainer.accumulate}.")
    if trainer.clip is not None and not trainer.clip > 0:
        raise ValueError(f"clip must be positive or None; got {trainer.clip}.")
    if trainer.seed < 0:
        raise ValueError(f"seed must not be negative; got {trainer.seed}.")
    for name in ("keep", "checkpoint_every"):
        value = getattr(trainer, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
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
    """Checks that everything that learns beside the model is in the optimizer."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    owners: dict[str, nn.Module] = {"weighting": trainer.weighting}
    owners |= {f"loss of {task}": task.module for task in trainer.tasks if task.module is not None}
    for owner, module in owners.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in held:
                raise ValueError(
                    f"optimizer must hold the {owner}'s parameter {name}; add its parameters()."
                )


def check_fit(
    trainer: Trainer,
    data: Mapping[str, Sequence[Source]],
    epochs: int,
    batch_size: int,
    weight_batch_size: int | None,
    resume: bool,
) -> None:
    """Checks what a run is given.

    Raises:
        ValueError: for the first thing that cannot be.
    """
    sizes = {"epochs": epochs, "batch_size": batch_size, "weight_batch_size": weight_batch_size}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}.")
    if trainer.weighting.observes and not data["weight_data"]:
        kind = type(trainer.weighting).__name__
        raise ValueError(f"{kind} learns from weight_data; got None.")
    if not data["validation"] and (trainer.stopping or trainer.best is not None):
        name = "stopping" if trainer.stopping else "best"
        raise ValueError(f"{name} needs validation data; got None.")
    if resume and trainer.output is None:
        raise ValueError("resume needs the trainer's output directory; got None.")
    check_stages(trainer.stages, trainer.tasks, epochs)
    for sources in data.values():
        for source in sources:
            source.check()
            _check_outputs(trainer, source)


def _check_outputs(trainer: Trainer, source: Source) -> None:
    """Checks that what the model makes of a data set fits its labels."""
    batch = source.first(trainer.device)
    with evaluating(trainer.joint):
        outputs = trainer.joint.outputs(batch)
    for task in source.tasks:
        output = outputs[task.output]
        task.check_output(output, batch.targets[task.target])
        source.classes[task.output] = output.shape[1] if output.dim() > 1 else 1
    if isinstance(source.data, Samples):
        source.check_labels(source.data.targets)


def check_plan(trainer: Trainer, plan: Plan) -> None:
    """Checks that every micro-batch can be trained on.

    Raises:
        ValueError: where one cannot.
    """
    several = plan.sampling == "max_size_cycle" and len(plan.lengths) > 1
    if several and not trainer.weighting.linear:
        kind = type(trainer.weighting).__name__
        raise ValueError(
            f"{kind} is not linear and needs all tasks in one batch; got sampling 'max_size_cycle'."
        )
    last = min(length % plan.batch_size or plan.batch_size for length in plan.lengths)
    smallest = last // (plan.micro * plan.processes)
    norms = (m for m in trainer.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    if smallest < 2 and any(norm.training for norm in norms):
        raise ValueError(
            "batch_size must leave each process more than 1 sample in the last micro-batch of an "
            f"epoch, as the model normalises over batches; got {smallest}."
        )
