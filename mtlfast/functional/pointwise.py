"""The pointwise losses for classification: (N, T) logits, the last dimension the task."""

from __future__ import annotations

from torch import Tensor

from mtlfast.functional.checks import check_number
from mtlfast.functional.docs import documented
from mtlfast.functional.pointwise_call import pointwise
from mtlfast.functional.typed import TaskLosses, with_tasks

__all__ = ["asymmetric_loss", "binary_cross_entropy_with_logits", "sigmoid_focal_loss"]


@with_tasks
@documented
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    task_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    return_tasks: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the binary cross entropy of logits, labels missing or not.

    With softplus(z) = log(1 + exp(z)) and positive weight p,

        l = (1 - y) softplus(x) + p y softplus(-x)

    <missing>
    <layout>

    Args:
        input: (N, T) logits: float32, float64, bfloat16 or float16.
        <target>
        weight: multiplies elements; broadcasts to the input.
        <reduction>
        <legacy>
        pos_weight: p, the weight of positive labels; broadcasts to the input, usually (T,).
        <smoothing>
        <mask>
        <weights>

    Returns:
        <returns>

    Raises:
        <raises>

    Source: torch.nn.functional.binary_cross_entropy_with_logits; smoothing as in Keras and timm.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, -1.0], [-2.0, 0.0]])
        >>> target = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
        >>> loss, tasks = binary_cross_entropy_with_logits(logits, target, return_tasks=True)
        >>> loss, tasks.count
        (tensor(0.3157), tensor([2, 1]))
    """
    return pointwise(
        "binary_cross_entropy_with_logits",
        input,
        target,
        {},
        reduction,
        label_smoothing=label_smoothing,
        size_average=size_average,
        reduce=reduce,
        weight=weight,
        pos_weight=pos_weight,
        ignore_index=ignore_index,
        mask=mask,
        task_weight=task_weight,
        sample_weight=sample_weight,
        return_tasks=return_tasks,
        backend=backend,
    )


@with_tasks
@documented
def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    task_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    return_tasks: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the sigmoid focal loss of logits, labels missing or not.

    With p_t = y sigmoid(x) + (1 - y) sigmoid(-x) and alpha_t = alpha y + (1 - alpha) (1 - y),

        l = alpha_t (1 - p_t)^gamma BCE(x, y)

    where `pos_weight` multiplies the positive part of the cross entropy.

    <missing>
    <layout>

    Args:
        inputs: (N, T) logits: float32, float64, bfloat16 or float16.
        targets: the shape of inputs; floating (soft labels welcome), bool or integer, int8 being
            the fast path. Integer targets above 1 are not checked.
        alpha: weight of positives against negatives; negative turns it off.
        gamma: at least 0; 0 gives the (balanced) cross entropy.
        <reduction>
        weight: multiplies elements; broadcasts to the input.
        pos_weight: the weight of positive labels; broadcasts to the input, usually (T,).
        <smoothing>
        <mask>
        <weights>

    Returns:
        <returns>

    Raises:
        <raises>

    Source: Lin et al., Focal Loss for Dense Object Detection, equation 5; torchvision.ops;
    `weight` and `pos_weight` as in kornia.

    Example:
        >>> import torch
        >>> sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([[1, -1]]), reduction="sum")
        tensor(0.0433)
    """
    check_number("alpha", alpha)
    check_number("gamma", gamma, 0)
    return pointwise(
        "sigmoid_focal_loss",
        inputs,
        targets,
        {"alpha": alpha, "gamma": gamma},
        reduction,
        label_smoothing=label_smoothing,
        weight=weight,
        pos_weight=pos_weight,
        ignore_index=ignore_index,
        mask=mask,
        task_weight=task_weight,
        sample_weight=sample_weight,
        return_tasks=return_tasks,
        backend=backend,
        names=("inputs", "targets"),
    )


@with_tasks
@documented
def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    eps: float = 1e-8,
    *,
    reduction: str = "sum",
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    task_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    return_tasks: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the asymmetric loss of logits, labels missing or not.

    With p = sigmoid(x), q = min(1 - p + clip, 1) and p_t = y p + (1 - y) q,

        l = -(y log p + (1 - y) log q) (1 - p_t)^(gamma_pos y + gamma_neg (1 - y))

    Logarithms are clamped at eps. The gradient is the full one, through the focal factor too.
    <missing>
    <layout>

    Args:
        input: (N, T) logits: float32, float64, bfloat16 or float16.
        <target>
        gamma_neg, gamma_pos: exponents for negatives and positives, at least 0.
        clip: shift of the negatives' probability, in [0, 1]; 0 turns it off.
        eps: floor of the probabilities inside the logarithms, in (0, 1].
        <reduction>
        <smoothing>
        <mask>
        <weights>

    Returns:
        <returns>

    Raises:
        <raises>

    Source: Ben-Baruch et al., Asymmetric Loss For Multi-Label Classification; timm.

    Example:
        >>> import torch
        >>> asymmetric_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor(0.3711)
    """
    check_number("gamma_neg", gamma_neg, 0)
    check_number("gamma_pos", gamma_pos, 0)
    check_number("clip", clip, 0, 1)
    check_number("eps", eps, 1e-38, 1)
    return pointwise(
        "asymmetric_loss",
        input,
        target,
        {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip, "eps": eps},
        reduction,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        mask=mask,
        task_weight=task_weight,
        sample_weight=sample_weight,
        return_tasks=return_tasks,
        backend=backend,
    )
