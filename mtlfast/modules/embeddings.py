"""The losses on embeddings as modules: on rows side by side, and on a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import mtlfast.functional as MF
from mtlfast.functional.checks import check_sequence
from mtlfast.modules.base import Loss, called_with

__all__ = [
    "BatchContrastiveLoss",
    "BatchTripletLoss",
    "ContrastiveLoss",
    "HierarchicalTripletLoss",
    "NormalizedTripletLoss",
    "TripletMarginLoss",
]


def _no_rows() -> Tensor:
    return torch.empty(0, 1, device="cpu")


class _TripletLoss(Loss):
    """What the losses on triplets of rows share: what they are called with."""

    def example(self) -> tuple[Any, ...]:
        """Returns a batch without rows."""
        return _no_rows(), _no_rows(), _no_rows()

    @called_with
    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Any:
        """Returns what the function does with the options held."""


class ContrastiveLoss(Loss):
    """Contrastive loss of pairs; call it with ``(x1, x2, same)``.

    Options as `functional.contrastive_loss`; `scale` and `bias` learn if they are parameters. A
    margin that changes comes with the call: ``loss(x1, x2, same, margin=updater(len(x1)))``.

    Example:
        >>> import torch
        >>> x1, x2 = torch.tensor([[1.0, 2.0, 2.0]]), torch.zeros(1, 3)
        >>> ContrastiveLoss(margin=4.0)(x1, x2, torch.tensor([True]))
        tensor(4.5000)
    """

    function = MF.contrastive_loss

    def __init__(self, margin: float | Tensor = 1.0, **options: Any) -> None:
        super().__init__(margin=margin, **options)

    def example(self) -> tuple[Any, ...]:
        """Returns a batch without rows."""
        return _no_rows(), _no_rows(), torch.empty(0, device="cpu")

    @called_with
    def forward(self, x1: Tensor, x2: Tensor, same: Tensor) -> Any:
        """Returns what the function does with the options held."""


class TripletMarginLoss(_TripletLoss):
    """Triplet margin loss; call it with ``(anchor, positive, negative)``.

    Options as `functional.triplet_margin_loss`, in the order of torch.nn.TripletMarginLoss.

    Example:
        >>> import torch
        >>> a, p, n = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]], [[0.0, 5.0]]])
        >>> TripletMarginLoss(squared=True, eps=0.0)(a, p, a)
        tensor(3.)
    """

    function = MF.triplet_margin_loss

    def __init__(
        self,
        margin: float | Tensor = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__(
            margin=margin,
            p=p,
            eps=eps,
            swap=swap,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            **options,
        )


class NormalizedTripletLoss(_TripletLoss):
    """Triplet loss of unit rows; call it with ``(anchor, positive, negative)``.

    Options as `functional.normalized_triplet_loss`.

    Example:
        >>> import torch
        >>> a, p, n = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]], [[0.0, 5.0]]])
        >>> NormalizedTripletLoss(margin=0.6)(a, p, n)
        tensor(0.1400)
    """

    function = MF.normalized_triplet_loss

    def __init__(self, margin: float | Tensor = 0.2, **options: Any) -> None:
        super().__init__(margin=margin, **options)


class HierarchicalTripletLoss(Loss):
    """Triplet loss over a hierarchy of labels; call it with ``(anchor, levels)``.

    Options as `functional.hierarchical_triplet_loss`.

    Example:
        >>> import torch
        >>> anchor, *levels = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]], [[0.0, 5.0]], [[3.0, 4.0]]])
        >>> HierarchicalTripletLoss([0.6, 0.2])(anchor, levels)
        tensor(0.3400)
    """

    function = MF.hierarchical_triplet_loss

    margins: list[float]

    def __init__(self, margins: Sequence[float], **options: Any) -> None:
        super().__init__(margins=check_sequence("margins", margins, "numbers"), **options)

    def example(self) -> tuple[Any, ...]:
        """Returns a batch without rows, of as many levels as the margins ask for."""
        return _no_rows(), [_no_rows()] * (len(self.margins) + 1)

    @called_with
    def forward(self, anchor: Tensor, levels: Sequence[Tensor]) -> Any:
        """Returns what the function does with the options held."""


class _BatchLoss(Loss):
    """What the losses on a whole batch of embeddings share: what they are called with."""

    def example(self) -> tuple[Any, ...]:
        """Returns a batch without rows."""
        return _no_rows(), torch.empty(0, dtype=torch.long, device="cpu")

    @called_with
    def forward(self, embeddings: Tensor, labels: Tensor) -> Any:
        """Returns what the function does with the options held."""


class BatchTripletLoss(_BatchLoss):
    """Triplet loss over a batch; call it with ``(embeddings, labels)``.

    A memory bank comes by keyword: ``ref_embeddings=..., ref_labels=...``. Options as
    `functional.batch_triplet_loss`.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> BatchTripletLoss(mining="hard")(x, torch.tensor([0, 0, 1]))
        tensor(0.5496)
    """

    function = MF.batch_triplet_loss

    def __init__(self, margin: float = 0.2, **options: Any) -> None:
        super().__init__(margin=margin, **options)


class BatchContrastiveLoss(_BatchLoss):
    """Contrastive loss over a batch; call it with ``(embeddings, labels)``.

    A memory bank comes by keyword, as for BatchTripletLoss. Options as
    `functional.batch_contrastive_loss`.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> BatchContrastiveLoss(neg_margin=0.5)(x, torch.tensor([0, 0, 1]))
        tensor(0.8496)
    """

    function = MF.batch_contrastive_loss

    def __init__(self, pos_margin: float = 0.0, neg_margin: float = 1.0, **options: Any) -> None:
        super().__init__(pos_margin=pos_margin, neg_margin=neg_margin, **options)
