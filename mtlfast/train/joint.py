"""Model, losses and weighting as one module: what a training step computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast, reduce
from torch import Tensor, nn

from mtlfast.train.model import MultiTaskModel
from mtlfast.train.sources import Batch
from mtlfast.train.tasks import Task
from mtlfast.weighting import Weighting

__all__ = ["Joint", "evaluating", "share_buffers", "wrap"]


class Joint(nn.Module):
    """Model, losses and weighting, so that autocast and DistributedDataParallel wrap them as one.

    Outside the wrapped module bfloat16 outputs would be made float32 before the loss, and learned
    weights would not be kept equal on all processes.

    Args:
        model: the model.
        tasks: the tasks, whose names in order are the T entries of every vector here.
        weighting: maps the (T,) losses to a scalar.
        processes: how many share a step, W.
    """

    static: Tensor
    normalizers: Tensor

    def __init__(
        self, model: MultiTaskModel, tasks: Sequence[Task], weighting: Weighting, processes: int = 1
    ) -> None:
        super().__init__()
        self.model, self.tasks, self.weighting = model, tasks, weighting
        self.processes = processes
        self.losses = nn.ModuleList([task.module for task in tasks if task.module is not None])
        columns = [task for task in tasks for _ in task.names]
        kinds = {"labelled": (1.0, 0.0, 0.0), "rows": (0.0, 1.0, 0.0)}
        rows = [kinds.get(str(task.normalizer)) or (0.0, 0.0, task.normalizer) for task in columns]
        self.by_labels = all(task.normalizer == "labelled" for task in tasks)
        self.register_buffer("static", torch.tensor([task.weight for task in columns]))
        self.register_buffer("normalizers", torch.tensor(rows).T.contiguous())

    def weights(self) -> list[float]:
        """Returns the factor of each task's loss: what the weighting says times its own weight."""
        return (self.weighting.weights * self.static).tolist()

    def unsound(self) -> str | None:
        """Returns the name of the first that learns and is not finite, or buffer that is NaN."""
        if self.processes > 1:
            share_buffers(self)
        # What weightings and losses remember may hold NaN or inf, where there is nothing yet.
        skipped = {id(b) for part in (self.weighting, self.losses) for b in part.buffers()}
        for name, tensor in self.state_dict(keep_vars=True).items():
            floating = torch.is_tensor(tensor) and tensor.is_floating_point()
            if id(tensor) in skipped or not floating:
                continue
            # A buffer may hold -inf for good, as a causal mask does.
            learns = isinstance(tensor, nn.Parameter)
            if (~tensor.isfinite() if learns else tensor.isnan()).any():
                return name
        return None

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the outputs of the heads that the batch's tasks compare."""
        return self.model(batch.inputs, dict.fromkeys(task.output for task in batch.tasks))

    def labelled(self, batch: Batch) -> list[Tensor]:
        """Returns which labels of each task are there; empty for tasks not in the batch."""
        nothing = self.static.new_zeros(0, dtype=torch.bool)
        return [
            task.labelled(batch.targets[task.target]) if task in batch.tasks else nothing
            for task in self.tasks
        ]

    def counts(self, present: Sequence[Tensor]) -> Tensor:
        """Returns the number of labels of each task: (T,) int64, of what ``labelled`` returns."""
        return torch.cat([t.counts(here) for t, here in zip(self.tasks, present, strict=True)])

    def sums(
        self, outputs: Mapping[str, Tensor], batch: Batch, present: Sequence[Tensor]
    ) -> Tensor:
        """Returns the losses summed over labels: (T,), 0 for tasks not in the batch."""
        return torch.cat(
            [
                task.adapter(outputs[task.output], batch.targets[task.target], here)
                if task in batch.tasks
                else self.static.new_zeros(len(task.names))
                for task, here in zip(self.tasks, present, strict=True)
            ]
        )

    def divisors(self, counts: Tensor, batches: Sequence[Batch]) -> Tensor:
        """Returns what the sums over a whole step are divided by: (T,).

        Args:
            counts: (T,) labelled elements of the step.
            batches: the step's micro-batches, which tell how many rows each task has.
        """
        counts = counts.clamp(min=1)
        if self.by_labels:
            return counts
        labelled, by_rows, constant = self.normalizers
        rows: Tensor | int = sum(batch.rows for batch in batches)
        if any(batch.tasks is not batches[0].tasks for batch in batches):
            columns = [task for task in self.tasks for _ in task.names]
            of_task = [sum(b.rows for b in batches if task in b.tasks) for task in columns]
            rows = torch.tensor(of_task, device=self.static.device).clamp(min=1)
        return labelled * counts + by_rows * rows + constant

    def forward(
        self, batch: Batch, present: Sequence[Tensor], counts: Tensor, divisors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns a micro-batch's share of a step's loss, times W, and its (T,) unweighted sums.

        With S_t the sum over this micro-batch on this process:

            W sum_t w_t S_t / d_t

        DistributedDataParallel averages gradients over W processes, so all shares together give the
        gradient of the whole step.

        Args:
            batch: inputs, labels, and the tasks that are trained on them.
            present: which labels are there, as ``labelled`` returns it.
            counts: (T,) labelled elements of the whole step, n_t.
            divisors: (T,) what the whole step's sums are divided by, d_t.
        """
        sums = self.sums(self.outputs(batch), batch, present)
        losses = sums * (self.static * self.processes) / divisors
        if self.processes > 1 and not self.weighting.linear:
            # The value of the whole step, with the gradient of this process's share.
            whole = reduce(losses.detach(), "mean")
            losses = losses + (whole - losses).detach()
        return self.weighting.combine(losses, counts), sums.detach()


def wrap(accelerator: Accelerator, joint: Joint, *, some_tasks: bool) -> nn.Module:
    """Returns the module wrapped for autocast and for several processes.

    Args:
        accelerator: what wraps it.
        joint: the module.
        some_tasks: whether there are steps in which not all tasks are trained.
    """
    outputs = {task.output for task in joint.tasks}
    several = len(outputs) > 1 or len(joint.losses) > 0
    idle = (some_tasks and several) or outputs != set(joint.model.heads)
    idle = idle or any(joint.model.layers.values())  # the body's end may have no head
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=idle)
    # Takes off the autocast that an earlier call has put around its forward.
    accelerator.unwrap_model(joint, keep_fp32_wrapper=False)
    return accelerator.prepare(joint)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts ``model`` in evaluation mode without gradients, then restores each module's flag."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags.items():
            module.training = training


def share_buffers(model: nn.Module) -> None:
    """Gives all processes the buffers of the first, as DistributedDataParallel's forward does.

    Between steps BatchNorm's statistics differ from process to process.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        by_dtype.setdefault(buffer.dtype, []).append(buffer)
    for buffers in by_dtype.values():
        flat = broadcast(torch.cat([buffer.reshape(-1) for buffer in buffers]))
        for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))
