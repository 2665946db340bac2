"""Loss modules: each holds keyword arguments and calls the function of the same family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import mtlfast.functional as MF


class _PointwiseLoss(nn.Module):
    """Holds the options of one pointwise loss; tensors among them are buffers.

    Call it with ``(input, target, *, mask=None, sample_weight=None)``.
    """

    function: Callable[..., Any]

    def __init__(self, *, task_weight: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        self.task_weight: Tensor | None
        self.register_buffer("task_weight", task_weight)
        self.options = options

    def tensors(self) -> dict[str, Tensor | None]:
        """Returns the tensor options, which move with the module."""
        return dict(self.named_buffers(recurse=False))

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Any:
        return type(self).function(
            input,
            target,
            mask=mask,
            sample_weight=sample_weight,
            **self.tensors(),
            **self.options,
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class _WeightedLoss(_PointwiseLoss):
    """A loss whose `weight` is a buffer, as in torch."""

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("weight", weight)


class BCEWithLogitsLoss(_WeightedLoss):
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
            weight, size_average=size_average, reduce=reduce, reduction=reduction, **options
        )
        self.register_buffer("pos_weight", pos_weight)


class SigmoidFocalLoss(_PointwiseLoss):
    """Sigmoid focal loss; options as `functional.sigmoid_focal_loss`."""

    function = MF.sigmoid_focal_loss

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, **options: Any) -> None:
        super().__init__(alpha=alpha, gamma=gamma, **options)


class AsymmetricLoss(_PointwiseLoss):
    """Asymmetric loss; options as `functional.asymmetric_loss`."""

    function = MF.asymmetric_loss

    def __init__(self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, **options: Any) -> None:
        super().__init__(gamma_neg=gamma_neg, gamma_pos=gamma_pos, **options)


class MSELoss(_WeightedLoss):
    """Squared error; options as `functional.mse_loss`, `weight` by keyword."""

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
    """Absolute error; options as `functional.l1_loss`, `weight` by keyword."""

    function = MF.l1_loss


class SmoothL1Loss(_PointwiseLoss):
    """Absolute error with a quadratic valley; options as `functional.smooth_l1_loss`."""

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
