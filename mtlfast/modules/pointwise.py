"""The pointwise losses as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import mtlfast.functional as MF
from mtlfast.modules.base import Loss

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "L1Loss",
    "MSELoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
]


class BCEWithLogitsLoss(Loss):
    """Binary cross entropy of logits; options as `functional.binary_cross_entropy_with_logits`.

    Example:
        >>> import torch
        >>> BCEWithLogitsLoss()(torch.zeros(2, 2), torch.tensor([[1, -1], [0, 1]]))
        tensor(0.6931)
    """

    function = MF.binary_cross_entropy_with_logits

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            pos_weight=pos_weight,
            **options,
        )


class SigmoidFocalLoss(Loss):
    """Sigmoid focal loss; options as `functional.sigmoid_focal_loss`.

    Example:
        >>> import torch
        >>> SigmoidFocalLoss(reduction="mean")(torch.zeros(2, 2), torch.tensor([[1, -1], [0, 1]]))
        tensor(0.0722)
    """

    function = MF.sigmoid_focal_loss

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, **options: Any) -> None:
        super().__init__(alpha=alpha, gamma=gamma, **options)


class AsymmetricLoss(Loss):
    """Asymmetric loss; options as `functional.asymmetric_loss`.

    Example:
        >>> import torch
        >>> AsymmetricLoss(gamma_neg=2.0)(torch.zeros(2, 2), torch.tensor([[1, -1], [0, 1]]))
        tensor(0.8142)
    """

    function = MF.asymmetric_loss

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        clip: float = 0.05,
        eps: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip, eps=eps, **options)


class MSELoss(Loss):
    """Squared error; options as `functional.mse_loss`, `weight` by keyword.

    Example:
        >>> import torch
        >>> MSELoss()(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, float("nan")]]))
        tensor(4.)
    """

    function = MF.mse_loss

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        **options: Any,
    ) -> None:
        super().__init__(size_average=size_average, reduce=reduce, reduction=reduction, **options)


class L1Loss(MSELoss):
    """Absolute error; options as `functional.l1_loss`, `weight` by keyword.

    Example:
        >>> import torch
        >>> L1Loss()(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, float("nan")]]))
        tensor(2.)
    """

    function = MF.l1_loss


class SmoothL1Loss(Loss):
    """Absolute error with a quadratic valley; options as `functional.smooth_l1_loss`.

    Example:
        >>> import torch
        >>> SmoothL1Loss(beta=0.5)(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, float("nan")]]))
        tensor(1.7500)
    """

    function = MF.smooth_l1_loss

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(
            size_average=size_average, reduce=reduce, reduction=reduction, beta=beta, **options
        )
