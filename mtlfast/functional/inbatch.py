"""Losses on all pairs or triplets of a batch of embeddings, mined by labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtlfast.functional.checks import (
    FLOATING,
    REAL,
    check_choice,
    check_embeddings,
    check_flags,
    check_number,
    check_tensor,
    fail,
    in_autocast,
    uses_transforms,
)
from mtlfast.functional.docs import documented
from mtlfast.ops import inbatch, reference_ops
from mtlfast.ops.autograd_inbatch import InBatch
from mtlfast.ops.backends import NAMES, choose
from mtlfast.ops.catalogue import CHOICES, LOSSES

__all__ = ["batch_contrastive_loss", "batch_triplet_loss"]

LARGEST = 1e30  # of a margin: beyond, differences of distances are lost


def _check_rows(name: str, tensor: Tensor, first: Tensor | None) -> None:
    check_embeddings(name, tensor, None if first is None else first.device, "embeddings")
    if tensor.dim() != 2 or tensor.shape[1] == 0:
        fail(f"{name} must have shape (N, D), D at least 1; got {tuple(tensor.shape)}.")
    if first is not None and tensor.shape[1] != first.shape[1]:
        fail(
            f"{name} must be as wide as embeddings, (M, {first.shape[1]}); "
            f"got {tuple(tensor.shape)}."
        )


def _check_labels(name: str, labels: Tensor, rows: Tensor, like: Tensor | None) -> None:
    check_tensor(name, labels, rows.device, "embeddings")
    if labels.dtype not in REAL or labels.dtype in FLOATING:
        fail(
            f"{name} must be integers or bool; got {labels.dtype}: call {name}.long() first.",
            TypeError,
        )
    if labels.dim() not in (1, 2) or labels.shape[0] != rows.shape[0]:
        fail(
            f"{name} must have shape ({rows.shape[0]},), or ({rows.shape[0]}, L) if multi-hot; "
            f"got {tuple(labels.shape)}."
        )
    if like is not None and labels.shape[1:] != like.shape[1:]:
        wanted = "(M,)" if like.dim() == 1 else f"(M, {like.shape[1]})"
        fail(f"{name} must be like labels, {wanted}; got {tuple(labels.shape)}.")
    if labels.dim() == 2 and labels.shape[1] == 1 and labels.dtype != torch.bool:
        fail(
            f"{name} must have shape ({rows.shape[0]},); got {tuple(labels.shape)}, which is one "
            f"label that all rows share: call {name}.squeeze(1) first."
        )


def _run(
    name: str,
    embeddings: Tensor,
    labels: Tensor,
    parameters: Mapping[str, Any],
    normalize: bool,
    reduction: str,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    backend: str,
) -> Tensor:
    """Returns the loss; see the public functions."""
    loss = LOSSES[name]
    check_choice("reduction", reduction, loss.reductions)
    check_choice("backend", backend, NAMES)
    check_flags(normalize=normalize)
    _check_rows("embeddings", embeddings, None)
    _check_labels("labels", labels, embeddings, None)
    if (ref_embeddings is None) != (ref_labels is None):
        given, missing = "ref_labels", "ref_embeddings"
        if ref_labels is None:
            given, missing = missing, given
        fail(f"{given} needs {missing}; got None.")
    dtype, device = embeddings.dtype, embeddings.device.type
    if ref_embeddings is not None and ref_labels is not None:
        _check_rows("ref_embeddings", ref_embeddings, embeddings)
        _check_labels("ref_labels", ref_labels, ref_embeddings, labels)
        if ref_embeddings.dtype != dtype:
            dtype = torch.promote_types(dtype, ref_embeddings.dtype)
            embeddings, ref_embeddings = embeddings.to(dtype), ref_embeddings.to(dtype)
    backend = choose(backend, device, dtype, "inbatch")

    operands = (embeddings, labels, ref_embeddings, ref_labels)
    number, params, how = loss.settings(parameters, reduction)
    settings: Any = (number, params, normalize, how)
    needs = (
        embeddings.requires_grad,
        ref_embeddings is not None and ref_embeddings.requires_grad,
    )
    if backend == "reference" or uses_transforms():
        value = reference_ops.inbatch(*operands, *settings)
    elif torch.is_grad_enabled() and any(needs):
        value = InBatch.apply(
            settings, backend, needs, labels, ref_labels, embeddings, ref_embeddings
        )
    else:
        value = inbatch.forward(*operands, *settings, backend, False, False)[0]
    if value.dtype != dtype and not in_autocast(dtype, device):
        return value.to(dtype)
    return value


@documented
def batch_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    margin: float = 0.2,
    *,
    mining: str = "all",
    normalize: bool = True,
    squared: bool = False,
    soft: bool = False,
    reduction: str = "nonzero",
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns the triplet loss over the triplets that a batch's labels give.

    With d the distance of two rows, a an anchor, p a positive (another row whose label matches) and
    n a negative (a row whose label does not),

        l = max(0, d_ap - d_an + m)

    No triplet is ever listed: per anchor, all are counted in O(N log N) or less; with `soft`, one
    by one.
    <batch>

    Args:
        <batch_operands>
        margin: m, a number.
        mining: "all" triplets; "hard": of each anchor, the farthest positive with the nearest
            negative (of equals, the first); or "semihard": all with 0 < d_an - d_ap <= m.
        <batch_distance>
        soft: softplus(d_ap - d_an + m) instead of the hinge; all of them are positive.
        reduction: "nonzero" (sum / number of triplets with a positive loss), "mean" (over the mined
            triplets) or "sum".
        <batch_reference>

    Returns:
        <batch_returns>

    Raises:
        <raises>

    Source: Schroff et al., FaceNet; Hermans et al., In Defense of the Triplet Loss for Person
    Re-Identification; pytorch-metric-learning: TripletMarginLoss, BatchHardMiner and
    TripletMarginMiner.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> batch_triplet_loss(x, torch.tensor([0, 0, 1]))
        tensor(0.5496)
    """
    check_number("margin", margin, -LARGEST, LARGEST)
    check_choice("mining", mining, CHOICES["mining"])
    check_flags(squared=squared, soft=soft)
    parameters = {"mining": mining, "margin": margin, "squared": squared, "soft": soft}
    reference = (ref_embeddings, ref_labels)
    name = "batch_triplet_loss"
    return _run(name, embeddings, labels, parameters, normalize, reduction, *reference, backend)


@documented
def batch_contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    pos_margin: float = 0.0,
    neg_margin: float = 1.0,
    *,
    normalize: bool = True,
    squared: bool = False,
    reduction: str = "nonzero",
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns the contrastive loss over all pairs of a batch.

    With d the distance of two rows, m_p and m_n the margins, a positive pair (its labels match) and
    a negative one lose,

        l_p = max(0, d - m_p)
        l_n = max(0, m_n - d)

    and the loss is the mean of the former plus the mean of the latter.
    <batch>

    Args:
        <batch_operands>
        pos_margin, neg_margin: m_p and m_n, numbers.
        <batch_distance>
        reduction: "nonzero" (each of the two means is over the pairs with a positive loss), "mean"
            (over all pairs of the kind) or "sum".
        <batch_reference>

    Returns:
        <batch_returns>

    Raises:
        <raises>

    Source: Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, without the
    squares; pytorch-metric-learning: ContrastiveLoss.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> batch_contrastive_loss(x, torch.tensor([0, 0, 1]))
        tensor(1.0438)
    """
    check_number("pos_margin", pos_margin, -LARGEST, LARGEST)
    check_number("neg_margin", neg_margin, -LARGEST, LARGEST)
    check_flags(squared=squared)
    parameters = {"pos_margin": pos_margin, "neg_margin": neg_margin, "squared": squared}
    reference = (ref_embeddings, ref_labels)
    name = "batch_contrastive_loss"
    return _run(name, embeddings, labels, parameters, normalize, reduction, *reference, backend)
