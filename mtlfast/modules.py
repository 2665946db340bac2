"""Loss modules: each holds keyword arguments and calls the function of the same family."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import mtlfast.functional as MF
from mtlfast.functional.arguments import check_reduction, fail

_TENSORS = ("weight", "pos_weight", "task_weight")


class _PointwiseLoss(nn.Module):
    """Holds the options of one pointwise loss, and calls its function.

    Tensors among the options are buffers, or parameters if they are given as such; they move with
    the module. Call it with ``(input, target, *, mask=None, sample_weight=None)``.
    """

    function: Callable[..., Any]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        known = inspect.signature(type(self).function).parameters
        for name in options:
            if name not in known:
                fail(f"{type(self).__name__} takes no option {name!r}.", TypeError)
        self.reduction: str = options.pop("reduction", known["reduction"].default)
        check_reduction(self.reduction)
        self.names = [name for name in _TENSORS if name in known]
        for name in self.names:
            tensor = options.pop(name, None)
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self.options = options

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Any:
        """Returns what the function does with the options held."""
        return type(self).function(
            input,
            target,
            reduction=self.reduction,
            mask=mask,
            sample_weight=sample_weight,
            **{name: getattr(self, name) for name in self.names},
            **self.options,
        )

    def extra_repr(self) -> str:
        """Returns the options that were given; tensors by their shape."""
        given: dict[str, Any] = {"reduction": self.reduction}
        for name in self.names:
            tensor = getattr(self, name)
            given[name] = None if tensor is None else tuple(tensor.shape)
        given |= self.options
        return ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)


class BCEWithLogitsLoss(_PointwiseLoss):
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


class SigmoidFocalLoss(_PointwiseLoss):
    """Sigmoid focal loss; options as `functional.sigmoid_focal_loss`."""

    function = MF.sigmoid_focal_loss

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, **options: Any) -> None:
        super().__init__(alpha=alpha, gamma=gamma, **options)


class AsymmetricLoss(_PointwiseLoss):
    """Asymmetric loss; options as `functional.asymmetric_loss`."""

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


class MSELoss(_PointwiseLoss):
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
