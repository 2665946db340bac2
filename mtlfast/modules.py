"""Loss modules: each holds keyword arguments and calls the function of the same family."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

import mtlfast.functional as MF
from mtlfast.functional import arguments, embeddings, inbatch
from mtlfast.functional.checks import check_choice, fail

_TENSORS = ("weight", "pos_weight", "task_weight", "scale", "bias")


class _Loss(nn.Module):
    """Holds the options of one loss, and calls its function.

    Tensors among the options are buffers, or parameters if they are given as such; they move with
    the module. Call it with the tensors of a batch, and with keywords that belong to a batch, such
    as `mask` and `sample_weight`.
    """

    function: Callable[..., Any]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        known = inspect.signature(type(self).function).parameters
        for name in options:
            if name not in known:
                fail(f"{type(self).__name__} takes no option {name!r}.", TypeError)
        self.reduction: str = options.pop("reduction", known["reduction"].default)
        check_choice("reduction", self.reduction, self.reductions())
        held = [name for name, value in options.items() if isinstance(value, Tensor)]
        self.names = [name for name in known if name in _TENSORS or name in held]
        for name in self.names:
            value = options.pop(name, None)
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            elif isinstance(value, Tensor) or value is None:
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.options = options

    @staticmethod
    def reductions() -> tuple[str, ...]:
        """Returns the names that `reduction` may have."""
        return arguments.REDUCTIONS

    def forward(self, *tensors: Any, **per_call: Any) -> Any:
        """Returns what the function does with the options held."""
        held = {name: getattr(self, name) for name in self.names}
        options = {"reduction": self.reduction, **held, **self.options, **per_call}
        return type(self).function(*tensors, **options)

    def extra_repr(self) -> str:
        """Returns the options that were given; tensors by their shape."""
        given: dict[str, Any] = {"reduction": self.reduction}
        for name in self.names:
            value = getattr(self, name)
            given[name] = tuple(value.shape) if isinstance(value, Tensor) else value
        given |= self.options
        return ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)


class BCEWithLogitsLoss(_Loss):
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


class SigmoidFocalLoss(_Loss):
    """Sigmoid focal loss; options as `functional.sigmoid_focal_loss`."""

    function = MF.sigmoid_focal_loss

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, **options: Any) -> None:
        super().__init__(alpha=alpha, gamma=gamma, **options)


class AsymmetricLoss(_Loss):
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


class MSELoss(_Loss):
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


class SmoothL1Loss(_Loss):
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


class _RowLoss(_Loss):
    """The same for losses on rows of embeddings."""

    @staticmethod
    def reductions() -> tuple[str, ...]:
        """Returns the names that `reduction` may have."""
        return embeddings.REDUCTIONS


class ContrastiveLoss(_RowLoss):
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


class TripletMarginLoss(_RowLoss):
    """Triplet margin loss; call it with ``(anchor, positive, negative)``.

    Options as `functional.triplet_margin_loss`, in the order of torch.nn.TripletMarginLoss.
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


class NormalizedTripletLoss(_RowLoss):
    """Triplet loss of unit rows; call it with ``(anchor, positive, negative)``.

    Options as `functional.normalized_triplet_loss`.
    """

    function = MF.normalized_triplet_loss

    def __init__(self, margin: float | Tensor = 0.2, **options: Any) -> None:
        super().__init__(margin=margin, **options)


class HierarchicalTripletLoss(_RowLoss):
    """Triplet loss over a hierarchy of labels; call it with ``(anchor, levels)``.

    Options as `functional.hierarchical_triplet_loss`.
    """

    function = MF.hierarchical_triplet_loss

    def __init__(self, margins: Sequence[float], **options: Any) -> None:
        super().__init__(margins=margins, **options)


class _BatchLoss(_Loss):
    """The same for losses on a whole batch of embeddings."""

    @staticmethod
    def reductions() -> tuple[str, ...]:
        """Returns the names that `reduction` may have."""
        return inbatch.REDUCTIONS


class BatchTripletLoss(_BatchLoss):
    """Triplet loss over a batch; call it with ``(embeddings, labels)``.

    A memory bank comes by keyword: ``ref_embeddings=..., ref_labels=...``. Options as
    `functional.batch_triplet_loss`.
    """

    function = MF.batch_triplet_loss

    def __init__(self, margin: float = 0.2, **options: Any) -> None:
        super().__init__(margin=margin, **options)


class BatchContrastiveLoss(_BatchLoss):
    """Contrastive loss over a batch; call it with ``(embeddings, labels)``.

    A memory bank comes by keyword, as for BatchTripletLoss. Options as
    `functional.batch_contrastive_loss`.
    """

    function = MF.batch_contrastive_loss

    def __init__(self, pos_margin: float = 0.0, neg_margin: float = 1.0, **options: Any) -> None:
        super().__init__(pos_margin=pos_margin, neg_margin=neg_margin, **options)
