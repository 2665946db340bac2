"""One body, several heads: what all tasks share and what each output has for itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mtlfast.train.data import Batch
from mtlfast.train.tasks import Task

__all__ = ["Joint", "MultiTaskModel", "check_batch_norm", "evaluating"]


class MultiTaskModel(nn.Module):
    """A backbone with named heads.

    Args:
        backbone: a module whose output feeds the heads.
        heads: by name, a module on the backbone's output, or ``(layer name, module)`` on the output
            of that submodule of the backbone, spelled as in ``backbone.named_modules()``.

    Raises:
        ValueError: without heads, or for a layer that the backbone does not have.

    Example:
        >>> heads = {"kind": nn.Linear(4, 3), "size": nn.Linear(4, 1)}
        >>> outputs = MultiTaskModel(nn.Linear(8, 4), heads)(torch.zeros(2, 8))
        >>> {name: tuple(output.shape) for name, output in outputs.items()}
        {'kind': (2, 3), 'size': (2, 1)}
    """

    def __init__(
        self, backbone: nn.Module, heads: Mapping[str, nn.Module | tuple[str, nn.Module]]
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError("a MultiTaskModel needs at least one head; got none.")
        split = {
            name: head if isinstance(head, tuple) else ("", head) for name, head in heads.items()
        }
        self.backbone = backbone
        self.layers = {name: layer for name, (layer, _) in split.items()}
        self.heads = nn.ModuleDict({name: head for name, (_, head) in split.items()})
        self._features: dict[str, Tensor] | None = None
        modules = dict(backbone.named_modules())
        for layer in sorted(set(self.layers.values()) - {""}):
            if layer not in modules:
                raise ValueError(
                    f"the backbone has no layer {layer!r}; it has {sorted(modules)[1:]}."
                )
            modules[layer].register_forward_hook(partial(self._keep, layer))

    def _keep(self, layer: str, module: nn.Module, args: object, output: Tensor) -> None:
        if self._features is not None:
            self._features[layer] = output

    def forward(self, x: Tensor, heads: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Returns the output of each head, or only of those named in ``heads``."""
        features = self._features = {}
        try:
            features[""] = self.backbone(x)
        finally:
            self._features = None
        wanted = self.heads if heads is None else heads
        return {name: self.heads[name](features[self.layers[name]]) for name in wanted}


class Joint(nn.Module):
    """Model, losses and weighting as one module, so that they can be wrapped as one.

    Args:
        model: the model.
        tasks: the tasks, whose names in order are the T entries of every vector here.
        weighting: maps the (T,) losses to a scalar.
    """

    static: Tensor
    normalizers: Tensor

    def __init__(self, model: MultiTaskModel, tasks: Sequence[Task], weighting: nn.Module) -> None:
        super().__init__()
        self.model, self.tasks, self.weighting = model, tasks, weighting
        columns = [task for task in tasks for _ in task.names]
        kinds = {"labelled": (1.0, 0.0, 0.0), "rows": (0.0, 1.0, 0.0)}
        rows = [kinds.get(str(task.normalizer)) or (0.0, 0.0, task.normalizer) for task in columns]
        self.register_buffer("static", torch.tensor([task.weight for task in columns]))
        self.register_buffer("normalizers", torch.tensor(rows).T.contiguous())

    def sums(self, inputs: Any, targets: Mapping[str, Tensor], active: Sequence[Task]) -> Tensor:
        """Returns the losses summed over labelled elements: (T,), 0 where a task is not active."""
        outputs = self.model(inputs, dict.fromkeys(task.output for task in active))
        idle = self.static.new_zeros
        return torch.cat(
            [t.sums(outputs, targets) if t in active else idle(len(t.names)) for t in self.tasks]
        )

    def counts(self, targets: Mapping[str, Tensor], active: Sequence[Task]) -> Tensor:
        """Returns the labelled elements of each task: (T,) int64, 0 where a task is not active."""
        return torch.cat([task.counts(targets) * (task in active) for task in self.tasks])

    def divisors(self, counts: Tensor, rows: int) -> Tensor:
        """Returns what each task's sum over a step of ``rows`` rows is divided by: (T,)."""
        labelled, by_rows, constant = self.normalizers
        return labelled * counts.clamp(min=1) + by_rows * rows + constant

    def forward(
        self, batch: Batch, active: Sequence[Task], counts: Tensor, divisors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns a micro-batch's share of a step's weighted loss, and its (T,) unweighted sums.

        Args:
            batch: inputs, and labels by name.
            active: the tasks that are trained.
            counts: (T,) labelled elements of the whole step.
            divisors: (T,) what the whole step's sums are divided by.
        """
        sums = self.sums(*batch, active)
        return self.weighting(sums * self.static / divisors, counts), sums.detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Lends ``model`` in evaluation mode without gradients, then restores each module's flag."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, training in flags.items():
            module.training = training


def check_batch_norm(model: nn.Module, smallest: int) -> None:
    """Checks that batch normalisation gets more than one sample in the smallest micro-batch.

    Raises:
        ValueError: where it would fail at the end of an epoch.
    """
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    if smallest < 2 and any(norm.training for norm in norms):
        raise ValueError(
            "batch_size must leave more than 1 sample in the last micro-batch of an epoch, "
            "as the model normalises over batches; got 1."
        )
