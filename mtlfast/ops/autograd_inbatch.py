"""The autograd.Function of the in-batch losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtlfast.ops import inbatch, reference_ops
from mtlfast.ops.autograd import fill_from_reference

InBatchSettings = tuple[int, Sequence[float], bool, int]  # loss, params, normalize, reduction


class InBatch(torch.autograd.Function):
    """Loss and gradient come from the same loop over tiles: recomputing would double its time.

    The gradient of the loss itself is saved, in the compute dtype, (N, D); the backward scales it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        settings: InBatchSettings,
        backend: str,
        needs: tuple[bool, bool],
        labels: Tensor,
        ref_labels: Tensor | None,
        embeddings: Tensor,
        ref_embeddings: Tensor | None,
    ) -> Tensor:
        """Returns the loss."""
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        operands = (embeddings, labels, ref_embeddings, ref_labels)
        value, *grads = inbatch.forward(*operands, *settings, backend, *needs)
        ctx.save_for_backward(*operands, *grads)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """Returns the gradients of embeddings and ref_embeddings."""
        embeddings, labels, ref_embeddings, ref_labels, *units = ctx.saved_tensors
        needs = ctx.needs_input_grad[5:]
        grads: list[Tensor | None] = [None, None]
        given = upstream[0]
        if given is not None and torch.is_grad_enabled():

            def recompute(embeddings: Tensor, ref_embeddings: Tensor | None) -> Sequence[Tensor]:
                operands = (embeddings, labels, ref_embeddings, ref_labels)
                return (reference_ops.inbatch(*operands, *ctx.settings),)

            fill_from_reference(grads, needs, upstream, (embeddings, ref_embeddings), recompute)
        elif given is not None:
            tensors = (embeddings, ref_embeddings)
            for i, (need, rows, unit) in enumerate(zip(needs, tensors, units, strict=True)):
                if need:
                    grads[i] = (given * unit).to(rows.dtype)
        return (None, None, None, None, None, *grads)
