"""The pointwise losses for regression: mean squared, absolute, and smooth absolute error."""

from __future__ import annotations

from torch import Tensor

from mtlfast.functional.checks import check_number
from mtlfast.functional.docs import documented
from mtlfast.functional.pointwise_call import pointwise
from mtlfast.functional.typed import TaskLosses, with_tasks

__all__ = ["l1_loss", "mse_loss", "smooth_l1_loss"]


@with_tasks
@documented
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    task_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    return_tasks: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the squared error, labels missing or not.

    For a prediction x and a target y,

        l = (x - y)^2

    <missing_regression>
    <layout>

    Args:
        <regression>
        <reduction>
        <legacy>
        weight: multiplies elements and broadcasts to the input; "mean" then divides by the sum of
            weight over labelled elements.
        <mask>
        <weights>

    Returns:
        <returns>

    Raises:
        <raises>

    Source: torch.nn.functional.mse_loss.

    Example:
        >>> import torch
        >>> mse_loss(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, float("nan")]]))
        tensor(4.)
    """
    return pointwise(
        "mse_loss",
        input,
        target,
        {},
        reduction,
        size_average=size_average,
        reduce=reduce,
        weight=weight,
        ignore_index=ignore_index,
        mask=mask,
        task_weight=task_weight,
        sample_weight=sample_weight,
        return_tasks=return_tasks,
        backend=backend,
        broadcasts=True,
    )


@with_tasks
@documented
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    *,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    task_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    return_tasks: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the absolute error, labels missing or not.

    For a prediction x and a target y, with gradient 0 where they are equal,

        l = |x - y|

    <missing_regression>
    <layout>

    Args:
        <regression>
        <reduction>
        <legacy>
        weight: multiplies elements and broadcasts to the input; "mean" then divides by the sum of
            weight over labelled elements.
        <mask>
        <weights>

    Returns:
        <returns>

    Raises:
        <raises>

    Source: torch.nn.functional.l1_loss.

    Example:
        >>> import torch
        >>> l1_loss(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, float("nan")]]))
        tensor(2.)
    """
    return pointwise(
        "l1_loss",
        input,
        target,
        {},
        reduction,
        size_average=size_average,
        reduce=reduce,
        weight=weight,
        ignore_index=ignore_index,
        mask=mask,
        task_weight=task_weight,
        sample_weight=sample_weight,
        return_tasks=return_tasks,
        backend=backend,
        broadcasts=True,
    )


@with_tasks
@documented
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
    *,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    task_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    return_tasks: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the absolute error with a quadratic valley, labels missing or not.

    With d = |x - y| for a prediction x and a target y,

        l = d^2 / (2 beta)  where d < beta
            d - beta / 2    elsewhere

    <missing_regression>
    <layout>

    Args:
        <regression>
        <reduction>
        <legacy>
        beta: width of the valley, at least 0; 0 gives the L1 loss.
        <mask>
        <weights>

    Returns:
        <returns>

    Raises:
        <raises>

    Source: torch.nn.functional.smooth_l1_loss; Girshick, Fast R-CNN, equation 3.

    Example:
        >>> import torch
        >>> smooth_l1_loss(torch.tensor([[1.0, 0.5]]), torch.tensor([[3.0, 0.0]]), reduction="none")
        tensor([[1.5000, 0.1250]])
    """
    check_number("beta", beta, 0)
    return pointwise(
        "smooth_l1_loss",
        input,
        target,
        {"beta": beta},
        reduction,
        size_average=size_average,
        reduce=reduce,
        ignore_index=ignore_index,
        mask=mask,
        task_weight=task_weight,
        sample_weight=sample_weight,
        return_tasks=return_tasks,
        backend=backend,
        broadcasts=True,
    )
