"""The reference backend: what the ops of a family return, in plain, differentiable PyTorch.

Missing labels, weights and reductions stand here, the formulas in reference.py and
reference_inbatch.py. Arguments are those of the native ops (csrc/ops.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlfast.ops.catalogue import REDUCTIONS, Loss, compute_dtype, numbered
from mtlfast.ops.reference import unit
from mtlfast.ops.reference_inbatch import distances, matches


def labelled(target: Tensor, mask: Tensor | None, loss: Loss) -> Tensor:
    """Returns where a label is present: not NaN, not masked, not a negative class label."""
    present = target >= 0 if loss.classification else target == target
    return present if mask is None else present & mask


def pointwise(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    sample_weight: Tensor | None,
    task_weight: Tensor | None,
    number: int,
    params: Sequence[float],
    reduction: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (loss, task_loss (T,), count (T,), denominator (T,)), as the native op does.

    With S_t the weighted sum over the labelled elements of task t, the loss is
    ``sum_t task_weight[t] S_t / denominator[t]``, or the (N, T) elements for "none".
    """
    loss, how, compute = (
        numbered("pointwise", number),
        REDUCTIONS[reduction],
        compute_dtype(logits.dtype),
    )
    present = labelled(target, mask, loss)
    smoothing, *rest = params
    x = torch.where(present, logits, 0).to(compute)
    y = torch.where(present, target, 0).to(compute)
    if smoothing:
        y = y * (1 - smoothing) + smoothing / 2
    extra = {} if pos_weight is None else {"pos_weight": torch.where(present, pos_weight, 1)}
    elements = loss.reference(x, y, **loss.unpack(rest), **extra)
    for factor in (weight, sample_weight):
        if factor is not None:
            elements = elements * torch.where(present, factor, 1)
    elements = torch.where(present, elements, 0)

    sums = elements.sum(0)
    count = present.sum(0)
    task_loss = sums / count.clamp(min=1)
    if how == "none":
        denominator = torch.ones_like(sums)
        if task_weight is not None:
            elements = elements * torch.where(present, task_weight, 1)
        return elements.to(logits.dtype), task_loss, count, denominator
    if how == "sum":
        total = torch.ones_like(sums)
    elif how == "batchmean":
        total = torch.full_like(sums, max(logits.shape[0], 1))
    elif how == "taskmean":
        total = count.to(compute)
    elif weight is not None and loss.weighted_mean:
        total = torch.where(present, weight, 0).sum().expand_as(sums)
    else:
        total = count.sum().to(compute).expand_as(sums)
    denominator = torch.where(total == 0, 1, total)
    weighted = sums if task_weight is None else sums * torch.where(count > 0, task_weight, 1)
    return (weighted / denominator).sum(), task_loss, count, denominator


def rows(
    rows: Sequence[Tensor],
    same: Tensor | None,
    margin: Tensor | None,
    sample_weight: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    number: int,
    params: Sequence[float],
    reduction: int,
) -> tuple[Tensor, Tensor]:
    """Returns (loss, denominator), as the native op does; loss is (N,) for "none"."""
    loss, how, compute = (
        numbered("rows", number),
        REDUCTIONS[reduction],
        compute_dtype(rows[0].dtype),
    )
    values = loss.unpack(params)
    if margin is not None:
        values |= {"gaps": [margin]} if "gaps" in values else {"margin": margin}
    operands = {"same": same, "scale": scale, "bias": bias}
    values |= {name: operand for name, operand in operands.items() if operand is not None}
    elements = loss.reference(*(x.to(compute) for x in rows), **values)
    weighted = elements if sample_weight is None else elements * sample_weight
    if how == "none":
        return weighted.to(rows[0].dtype), weighted.new_ones(())
    if how == "nonzero":
        counted = torch.ones_like(elements) if values.get("soft") else elements > 0
        denominator = counted.sum().clamp(min=1).to(compute)
    else:
        denominator = weighted.new_full((), max(len(weighted), 1) if how == "mean" else 1)
    return weighted.sum() / denominator, denominator


def inbatch(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    number: int,
    params: Sequence[float],
    normalize: bool,
    reduction: int,
) -> Tensor:
    """Returns the loss, as the op does; in float32 for half types."""
    loss, compute = numbered("inbatch", number), compute_dtype(embeddings.dtype)
    x = embeddings.to(compute)
    x = unit(x) if normalize else x
    if ref_embeddings is None or ref_labels is None:
        y, positive = x, matches(labels, labels)
        others = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
        positive, negative = positive & others, ~positive & others
    else:
        y = ref_embeddings.to(compute)
        y, positive = unit(y) if normalize else y, matches(labels, ref_labels)
        negative = ~positive
    if positive.numel() == 0:
        return (x.sum() + y.sum()) * 0
    values = loss.unpack(params)
    d = distances(x, y, values.pop("squared"))
    return loss.reference(d, positive, negative, reduction=REDUCTIONS[reduction], **values)
