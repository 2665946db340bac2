"""The four ways in which a loss comes to a sum for each task: chosen once, then called in training.

``adapt`` chooses by what is known of a loss; where only a call can tell, a first batch does.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor

import mtlfast.functional as MF
from mtlfast.train.labels import aligned, along, apart, covers
from mtlfast.train.losses import Loss

__all__ = ["Adapter", "adapt", "probe"]


class Adapter:
    """A loss as training calls it: ``(output, target, present)`` to its (T,) sums over labels.

    This one is of a loss that no batch has been tried on yet; what is known of it is which labels
    are there.

    Args:
        loss: what is known of it.

    Attributes:
        by_row: whether a row of labels is there, or is missing, as a whole.

    Raises:
        ValueError: for several tasks where the loss is of whole rows.
    """

    by_row = False

    def __init__(self, loss: Loss) -> None:
        if self.by_row and loss.columns > 1:
            raise ValueError(
                f"loss {loss.name} is of whole rows: one task, not {loss.columns}; "
                "use a Task for each."
            )
        self.loss = loss

    def labelled(self, target: Tensor) -> Tensor:
        """Returns which labels are there: as ``Loss.labelled``, or one for each row."""
        present = self.loss.labelled(target)
        return present.flatten(1).all(1) if self.by_row and present.dim() > 1 else present

    def __call__(self, output: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """Returns the loss of each task summed over its labels: (T,), with gradient.

        Args:
            output: of the head.
            target: labels.
            present: which of them are there, as ``labelled`` returns it.
        """
        raise ValueError(f"loss {self.loss.name} must be tried on a batch first, by check_output.")

    @property
    def known(self) -> bool:
        """Whether it is known what the loss returns."""
        return type(self) is not Adapter

    def _beside(
        self, output: Tensor, target: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns all three so that none broadcasts against another."""
        if self.loss.shaped:
            return output, target, present
        single = present.shape == target.shape
        output, target = aligned(output, target)
        return output, target, present.reshape(target.shape) if single else present


class Fused(Adapter):
    """Returns TaskLosses, from labels as they are: missing ones are its own to leave out."""

    def __call__(self, output: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """Returns the (T,) sums; see ``Adapter``."""
        output, target, present = self._beside(output, target, present)
        if self.loss.elementwise:
            width = output.shape[-1] if output.dim() > 1 else 1
            output, target = output.reshape(-1, width), target.reshape(-1, width)
        result = self.loss.call(output, target)
        tasks = result if isinstance(result, MF.TaskLosses) else result[-1]
        sums: Tensor = tasks.loss * tasks.count
        columns = self.loss.columns
        return sums if len(sums) == columns else sums.reshape(-1, columns).sum(0)


class Elementwise(Adapter):
    """Returns a value for each label; what it makes of missing ones is left out."""

    def __call__(self, output: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """Returns the (T,) sums; see ``Adapter``."""
        output, target, present = self._beside(output, target, present)
        filled = _filled(self.loss, output, target, present)
        values = self.loss.call(*self.loss.arguments(*filled))
        if not isinstance(values, Tensor) or values.numel() != present.numel():
            raise _unfit(self.loss, values, present)
        present = present.reshape(values.shape)
        return torch.where(present, _wide(values), 0).reshape(-1, self.loss.columns).sum(0)


class Rowwise(Elementwise):
    """Returns a value for each row, which is labelled where all its labels are there."""

    by_row = True


class Scalar(Adapter):
    """Returns one number for the labelled rows, which it sees alone; the host waits for them."""

    by_row = True

    def __call__(self, output: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """Returns the number times that of the rows, (1,); see ``Adapter``."""
        output, target, present = self._beside(output, target, present)
        seen = output[present]
        if not len(seen):
            return torch.where(along(present, output), output, 0).sum().reshape(1)
        return (_wide(self.loss.call(seen, target[present])) * len(seen)).reshape(1)


ADAPTERS = {"fused": Fused, "elementwise": Elementwise, "rowwise": Rowwise, "scalar": Scalar}


def adapt(loss: Loss) -> Adapter:
    """Returns the adapter of a loss; where only a call can tell, one for ``probe`` to replace."""
    return Adapter(loss) if loss.form is None else ADAPTERS[loss.form](loss)


def probe(adapter: Adapter, output: Tensor, target: Tensor) -> Adapter:
    """Returns the adapter after a try without gradient, or the one that a call asks for.

    Args:
        adapter: of a loss; if that is a module, a copy of it is called.
        output: of a small batch.
        target: its labels.

    Raises:
        ValueError: where the loss returns nothing that an adapter takes.
    """
    loss = adapter.loss
    tried = copy.copy(loss)
    if loss.module is not None:
        tried.call = copy.deepcopy(loss.call)
    output, target = apart(output, target)
    devices = [output.device] if output.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what an error tells, or training will
        kind = type(adapter) if adapter.known else _kind(tried, output, target)
        trial = kind(tried)
        trial(output, target, trial.labelled(target))
    return adapter if adapter.known else kind(loss)


def _kind(loss: Loss, output: Tensor, target: Tensor) -> type[Adapter]:
    """Returns the kind of adapter that fits what a loss returns."""
    if not loss.shaped:
        output, target = aligned(output, target)
    kind = Elementwise if covers(loss.labelled(target), output) else Rowwise
    present = kind(loss).labelled(target)
    result = loss.call(*_filled(loss, output, target, present))
    if isinstance(result, Tensor):
        if not result.dim():
            return Scalar
        if result.numel() == present.numel():
            return kind
        if result.shape == present.shape[:1]:
            return Rowwise
    last = result[-1] if type(result) is tuple and result else result
    if isinstance(last, MF.TaskLosses):
        return Fused
    raise _unfit(loss, result, present)


def _filled(loss: Loss, output: Tensor, target: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Returns output and target with 0 in place of what is missing or has no label."""
    if loss.kind == "multiclass":
        wide = present.unsqueeze(1)
        if target.dim() > 1 and target.is_floating_point():
            return torch.where(wide, output, 0), target.masked_fill(~wide, 0)
        return torch.where(wide, output, 0), target.masked_fill(~present, 0).long()
    target = target.masked_fill(~along(present, target), 0)
    if loss.indexed:
        target = target.long()
    if loss.typed:
        output = _wide(output)
        target = target.to(output.dtype)
    return torch.where(along(present, output), output, 0), target


def _unfit(loss: Loss, result: Any, present: Tensor) -> ValueError:
    got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
    return ValueError(
        f"loss {loss.name} must return a value for each label, {tuple(present.shape)}, "
        f"one for each row, a scalar or TaskLosses; got {got}."
    )


def _wide(values: Tensor) -> Tensor:
    """Returns half-precision values as float32, in which sums are kept."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
