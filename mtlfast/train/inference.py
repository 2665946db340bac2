"""A model over whole data sets, without learning anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    concatenate,
    convert_to_fp32,
    recursively_apply,
    reduce,
    send_to_device,
)
from torch import Tensor

from mtlfast.data import in_order
from mtlfast.distributed import gather_embeddings
from mtlfast.train import randomness
from mtlfast.train.joint import Joint, evaluating, share_buffers
from mtlfast.train.sources import Batch, Source, read
from mtlfast.train.tasks import Scores, Task

__all__ = ["observe", "outputs", "scores"]


def scores(
    accelerator: Accelerator, joint: Joint, sources: Iterable[Source], batch_size: int
) -> Scores:
    """Returns each task's mean ``loss``, labelled ``count`` and ``metrics`` on its data set.

    Every process reads a share, and all get the same scores.
    """
    found: Scores = {}
    for source in sources:
        found |= _scores(accelerator, joint, source, batch_size)
    names = (name for task in joint.tasks for name in task.names)
    return {name: found[name] for name in names if name in found}


def _scores(accelerator: Accelerator, joint: Joint, source: Source, batch_size: int) -> Scores:
    """Returns the scores of the tasks that a data set has labels for."""
    scored = [task for task in source.tasks if task.metrics]
    totals = torch.zeros(2, len(joint.static), dtype=torch.float64)

    def look(batch: Batch) -> Any:
        outputs, present = joint.outputs(batch), joint.labelled(batch)
        pair = joint.sums(outputs, batch, present), joint.counts(present)
        totals.add_(torch.stack(pair).cpu())
        labels = {task.target: batch.targets[task.target] for task in scored}
        return {task.output: outputs[task.output] for task in scored}, labels

    outputs, targets = _collect(accelerator, joint, source, batch_size, look)
    if accelerator.num_processes > 1:
        totals = reduce(totals.to(accelerator.device), "sum")
    found: Scores = {}
    parts = totals.split([len(task.names) for task in joint.tasks], 1)
    for task, (sums, counts) in zip(joint.tasks, parts, strict=True):
        if task in source.tasks:
            pair = outputs.get(task.output), targets.get(task.target)
            found |= task.scores(*pair, sums.tolist(), counts.long().tolist())
    return found


def outputs(
    accelerator: Accelerator, joint: Joint, source: Source, batch_size: int, heads: Iterable[str]
) -> dict[str, Tensor]:
    """Returns the heads' outputs for a whole data set, in its order, on the CPU in float32."""
    found: dict[str, Tensor] = _collect(
        accelerator, joint, source, batch_size, lambda batch: joint.model(batch.inputs, heads)
    )
    return found


def observe(
    accelerator: Accelerator, joint: Joint, batches: Iterable[Batch], active: Sequence[Task]
) -> None:
    """Shows the weighting one batch of weight data; the model stays as it is.

    The model is not the wrapped one: DistributedDataParallel would wait for processes that have
    nothing to read.
    """
    if accelerator.num_processes > 1:
        share_buffers(joint.model)
    sums = counts = torch.zeros_like(joint.static)
    with evaluating(joint), accelerator.autocast():
        for batch in batches:
            batch = batch._replace(tasks=[task for task in batch.tasks if task in active])
            present = joint.labelled(batch)
            sums = sums + joint.sums(joint.outputs(batch), batch, present)
            counts = counts + joint.counts(present)
    joint.weighting.observe(sums / counts.clamp(min=1), counts)


def _collect(
    accelerator: Accelerator,
    joint: Joint,
    source: Source,
    batch_size: int,
    look: Callable[[Batch], Any],
) -> Any:
    """Returns what a look at each batch gives, of all processes in the order of the data set.

    Args:
        accelerator: whose processes share the work.
        joint: the model.
        source: the data set.
        batch_size: samples at a time, of each process.
        look: takes a batch and returns tensors of its rows, in nested mappings.
    """
    processes, rank = accelerator.num_processes, accelerator.process_index
    device = accelerator.device
    if processes > 1:
        share_buffers(joint)
    steps = in_order(len(source), batch_size, processes)
    with evaluating(joint), accelerator.autocast(), randomness.kept(device):
        batches = read([source], steps, source.tasks, device, rank=rank)
        parts = [send_to_device(look(batch), "cpu") for (batch,) in batches]
    whole = convert_to_fp32(concatenate(parts))
    if processes > 1:
        whole = recursively_apply(lambda part: gather_embeddings(part.to(device)).cpu(), whole)
    return whole
