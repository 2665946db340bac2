"""What is checked before any work on data: that it fits the tasks and the model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import slice_tensors

from mtlfast.data import Plan
from mtlfast.functional.checks import check_kinds, check_whole
from mtlfast.train import randomness
from mtlfast.train.joint import Joint, evaluating
from mtlfast.train.options import Options
from mtlfast.train.schedule import check_stages
from mtlfast.train.sources import Source
from mtlfast.writing import brief

__all__ = ["check_fit", "check_plan", "check_source"]


def check_fit(
    options: Options,
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
    weighting = options.weighting
    if weighting.observes and not data["weight_data"]:
        kind = type(weighting).__name__
        raise ValueError(f"{kind} learns from weight_data; got None.")
    if not data["validation"] and (options.stopping or options.best is not None):
        name = "stopping" if options.stopping else "best"
        raise ValueError(f"{name} needs validation data; got None.")
    if flags["resume"] and options.output is None:
        raise ValueError("resume needs the trainer's output directory; got None.")
    check_stages(options.stages, options.tasks, epochs)
    watched = data["weight_data"] if weighting.observes else []
    for role in ("dataset", "validation"):
        if any(source.data.shares(other.data) for source in data[role] for other in watched):
            raise ValueError(f"weight_data must be other data than {role}; got the same rows.")


def check_source(joint: Joint, accelerator: Accelerator, source: Source) -> None:
    """Checks that a data set has labels for its tasks, and that what the model makes of it fits.

    Raises:
        ValueError: where it has not, or does not.
    """
    source.check()
    device = accelerator.device
    batch = source.first(device)
    with evaluating(joint), accelerator.autocast(), randomness.kept(device):
        outputs = joint.outputs(batch)
    for task in source.tasks:
        output = outputs[task.output]
        task.check_output(output, batch.targets[task.target], source.row)
        source.classes[task.output] = output.shape[1] if output.dim() > 1 else 1
    source.check_held()


def check_plan(
    joint: Joint, accelerator: Accelerator, sources: Sequence[Source], plan: Plan, epochs: int
) -> None:
    """Checks that every micro-batch can be trained on.

    Raises:
        ValueError: where one cannot.
    """
    weighting, steps = joint.weighting, epochs * len(plan)
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
            _try(joint, accelerator, source, 0, "leave samples for every process")
        if last // shares < 2:
            _try(joint, accelerator, source, 1, "leave each process more than 1 sample")


def _try(joint: Joint, accelerator: Accelerator, source: Source, rows: int, wanted: str) -> None:
    """Checks that a copy of the model takes so few samples in training."""
    device = accelerator.device
    inputs = slice_tensors(source.first(device).inputs, slice(0, rows))
    model = copy.deepcopy(joint.model)
    try:
        with torch.no_grad(), accelerator.autocast(), randomness.kept(device):
            model(inputs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"batch_size must {wanted} in the last micro-batch of an epoch, as the model does not "
            f"take {rows}: {brief(error)}."
        ) from error
