"""What every weighting has: weights, and how losses, a step and weight data reach it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

import mtlfast.functional as MF
from mtlfast.functional.checks import check_real, check_tensor, check_vector, fail
from mtlfast.functional.combine import check_losses
from mtlfast.modules.memory import Memory

__all__ = ["Weighting"]


class Weighting(Memory):
    """The contract of a weighting: a (T,) buffer ``weights``, and four methods.

    ``forward`` is ``combine`` and then, in training mode, ``advance``. A loop that combines several
    micro-batches or shares of a batch into one optimizer step calls ``combine`` for each and
    ``advance`` once; any other loop calls the module. ``observe`` takes weight data.

    Everything that is remembered is in the state dict; learned or not, it stays float32 or float64
    where the module, or a model around it, is cast to a half type. What processes of a group pass
    to ``advance`` or ``observe`` is added before any quotient, so every process must call them
    equally often, and all remember the same.

    Attributes:
        weights: (T,) current weights.
        observes: whether ``observe`` must be fed; the trainer then asks for weight data.
        linear: whether ``combine`` is linear in the losses, with weights that are no parameters.
            Gradient accumulation and a batch that is spread over processes need it.

    Example:
        >>> weighting = Weighting(torch.tensor([1.0, 0.5]))
        >>> losses, counts = torch.tensor([2.0, 4.0]), torch.tensor([8, 0])
        >>> weighting(losses), weighting(losses, counts)
        (tensor(4.), tensor(2.))
    """

    weights: Tensor
    observes = False
    linear = True

    def __init__(self, weights: Tensor) -> None:
        """Takes what the class describes."""
        super().__init__()
        self.register_buffer("weights", weights)

    def extra_repr(self) -> str:
        """Returns the settings, as ``repr(module)`` and a run's report show them."""
        return f"num_tasks={len(self.weights)}"

    def forward(self, losses: Tensor, counts: Tensor | None = None) -> Tensor:
        """Returns the combined loss; in training mode the weighting then advances by one step.

        Args:
            losses: (T,) floating, one loss per task, with gradient.
            counts: (T,) labelled samples behind each loss. A task with count 0 is left out,
                whatever its loss holds. None: every task has labels.

        Returns:
            A scalar of the losses' dtype.

        Raises:
            TypeError, ValueError: where losses or counts are not such tensors.
        """
        total = self.combine(losses, counts)
        if self.training:
            self.advance(losses.detach(), counts)
        return total

    def combine(self, losses: Tensor, counts: Tensor | None = None) -> Tensor:
        """Returns the combined loss and changes nothing; arguments are those of ``forward``.

        Here it is sum_t weights[t] losses[t] over the tasks that have labels.
        """
        weights, dtype = self._check(losses, counts), losses.dtype
        losses = losses.to(torch.promote_types(dtype, weights.dtype))
        # A copy, so that new weights between forward and backward do not disturb the graph. Of a
        # weight of 0 the loss may hold anything.
        if counts is None:
            weights = weights.to(losses.dtype, copy=True)
        else:
            weights = torch.where(counts > 0, weights.to(losses.dtype), 0)
        return MF.weighted_sum(losses, weights).to(dtype)

    def advance(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Takes note that an optimizer step was combined, to be called once per step.

        A weighting that does not change from step to step only checks the arguments.

        Args:
            losses: (T,) unweighted training losses of the whole step; gradients are ignored. In a
                process group, means over this process's share.
            counts: (T,) labelled samples behind each; 0 leaves a task out. None counts each once.

        Raises:
            TypeError, ValueError: where losses or counts are not such tensors.
        """
        self._check(losses, counts)

    def observe(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Takes one batch of weight data; a weighting that learns nothing from it only checks it.

        Args:
            losses: (T,) unweighted losses on data apart from the training batch; gradients are
                ignored. In a process group, means over this process's share.
            counts: (T,) labelled samples behind each; 0 leaves a task out. None counts each once.

        Raises:
            TypeError, ValueError: where losses or counts are not such tensors.
        """
        self._check(losses, counts)

    def _check(self, losses: Tensor, counts: Tensor | None) -> Tensor:
        """Returns the weights; raises where losses or counts do not match them."""
        weights = self.weights
        (tasks,), device = weights.shape, weights.device
        check_losses(losses)
        check_vector("losses", losses, tasks, "task")
        if losses.device != device:
            fail(
                f"losses must be on the device of the weighting, {device}; got {losses.device}: "
                f"call weighting.to({str(losses.device)!r}) first."
            )
        if counts is not None:
            check_tensor("counts", counts, device, "losses")
            check_real("counts", counts)
            check_vector("counts", counts, tasks, "task")
        return weights

    def _totals(self, losses: Tensor, counts: Tensor | None) -> Tensor:
        """Returns (2, T), losses times counts and counts, each added over the processes."""
        weights = self._check(losses, counts)
        losses = losses.detach().to(weights)
        if counts is None:
            totals = torch.stack((losses, torch.ones_like(losses)))
        else:
            counts = counts.to(losses)
            totals = torch.stack((losses * counts, counts)).masked_fill_(~(counts > 0), 0)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
        return totals
