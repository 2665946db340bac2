"""A model over whole data sets, without learning anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        whole = _collect(accelerator, joint, source, batch_size)
        predicted, targets, sums, counts = whole
        start = 0
        for task in joint.tasks:
            stop = start + len(task.names)
            if task in source.tasks:
                pair = predicted.get(task.output), targets.get(task.target)
                found |= task.scores(*pair, sums[start:stop], counts[start:stop])
            start = stop
    names = (name for task in joint.tasks for name in task.names)
    return {name: found[name] for name in names if name in found}


def outputs(
    accelerator: Accelerator, joint: Joint, source: Source, batch_size: int, heads: Iterable[str]
) -> dict[str, Tensor]:
    """Returns the heads' outputs for a whole data set, in its order, on the CPU in float32."""
    return _collect(accelerator, joint, source, batch_size, heads)[0]


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
    heads: Iterable[str] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float], list[int]]:
    """Returns outputs, labels, and each task's summed loss and labelled count, of all processes.

    Args:
        accelerator: whose processes share the work.
        joint: the model.
        source: the data set.
        batch_size: samples at a time, of each process.
        heads: the outputs to return, then without labels, sums and counts; by default those that
            metrics need, with their labels.
    """
    processes, rank = accelerator.num_processes, accelerator.process_index
    device = accelerator.device
    scored = [task for task in source.tasks if task.metrics]
    parts: list[Any] = []
    totals = torch.zeros(2, len(joint.static), dtype=torch.float64)
    if processes > 1:
        share_buffers(joint)
    steps = in_order(len(source), batch_size, processes)
    with evaluating(joint), accelerator.autocast(), randomness.kept(device):
        for (batch,) in read([source], steps, source.tasks, device, rank=rank):
            if heads is None:
                predicted, present = joint.outputs(batch), joint.labelled(batch)
                pair = joint.sums(predicted, batch, present), joint.counts(present)
                totals += torch.stack(pair).cpu().double()
                predicted = {task.output: predicted[task.output] for task in scored}
                labels = {task.target: batch.targets[task.target] for task in scored}
            else:
                predicted, labels = joint.model(batch.inputs, heads), {}
            parts.append(send_to_device((predicted, labels), "cpu"))
    whole = convert_to_fp32(concatenate(parts))
    if processes > 1:
        whole = recursively_apply(lambda part: gather_embeddings(part.to(device)).cpu(), whole)
        totals = reduce(totals.to(device), "sum").cpu()
    sums, counts = totals.tolist()
    return *whole, sums, list(map(int, counts))
