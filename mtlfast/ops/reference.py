"""The specification: each loss in a few lines of plain, differentiable PyTorch.

Nothing here is clever and no gradient is written by hand; the kernels are tested against these
functions in float64. Formulas and sources stand in the public docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

CLASSIFICATION = frozenset(
    ("binary_cross_entropy_with_logits", "sigmoid_focal_loss", "asymmetric_loss")
)
WEIGHTED_MEAN = frozenset(("mse_loss", "l1_loss"))


def binary_cross_entropy_with_logits(
    x: Tensor, y: Tensor, pos_weight: Tensor | None = None
) -> Tensor:
    positive = logsigmoid(x) if pos_weight is None else pos_weight * logsigmoid(x)
    return -(y * positive + (1 - y) * logsigmoid(-x))


def _power(miss: Tensor, gamma: float | Tensor) -> Tensor:
    # Where miss underflows to 0, the derivative of miss**gamma is infinite for gamma below 1.
    return miss.clamp(min=torch.finfo(miss.dtype).tiny) ** gamma


def sigmoid_focal_loss(x: Tensor, y: Tensor, alpha: float, gamma: float) -> Tensor:
    cross_entropy = binary_cross_entropy_with_logits(x, y)
    miss = torch.sigmoid(x) * (1 - y) + torch.sigmoid(-x) * y
    balance = alpha * y + (1 - alpha) * (1 - y) if alpha >= 0 else 1.0
    return balance * cross_entropy * _power(miss, gamma)


def asymmetric_loss(
    x: Tensor, y: Tensor, gamma_neg: float, gamma_pos: float, clip: float, eps: float
) -> Tensor:
    positive = torch.sigmoid(x)
    negative = torch.sigmoid(-x)
    if clip > 0:
        negative = (negative + clip).clamp(max=1)
    likelihood = y * positive.clamp(min=eps).log() + (1 - y) * negative.clamp(min=eps).log()
    miss = 1 - (positive * y + negative * (1 - y))
    return -likelihood * _power(miss, gamma_pos * y + gamma_neg * (1 - y))


def mse_loss(x: Tensor, y: Tensor) -> Tensor:
    return (x - y) ** 2


def l1_loss(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs()


def smooth_l1_loss(x: Tensor, y: Tensor, beta: float) -> Tensor:
    if beta == 0:
        return l1_loss(x, y)
    d = (x - y).abs()
    return torch.where(d < beta, 0.5 * d**2 / beta, d - 0.5 * beta)


POINTWISE: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        binary_cross_entropy_with_logits,
        sigmoid_focal_loss,
        asymmetric_loss,
        mse_loss,
        l1_loss,
        smooth_l1_loss,
    )
}


def labelled(target: Tensor, mask: Tensor | None, loss: str) -> Tensor:
    """Returns where a label is present: not NaN, not masked, not a negative class label."""
    if target.is_floating_point():
        present = ~target.isnan()
    elif loss in CLASSIFICATION:
        present = target >= 0
    else:
        present = torch.ones_like(target, dtype=torch.bool)
    return present if mask is None else present & mask


def pointwise(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    sample_weight: Tensor | None,
    task_weight: Tensor | None,
    loss: str,
    params: Sequence[float],
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (loss, task_loss (T,), count (T,), denominator (T,)), as the native op does.

    With S_t the weighted sum over the labelled elements of task t, the loss is
    ``sum_t task_weight[t] S_t / denominator[t]``, or the (N, T) elements for "none".
    """
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    present = labelled(target, mask, loss)
    smoothing, *rest = params
    x = torch.where(present, logits, 0).to(compute)
    y = torch.where(present, target, 0).to(compute)
    if smoothing:
        y = y * (1 - smoothing) + smoothing / 2
    extra = {} if pos_weight is None else {"pos_weight": torch.where(present, pos_weight, 1)}
    elements = POINTWISE[loss](x, y, *rest, **extra)
    for factor in (weight, sample_weight):
        if factor is not None:
            elements = elements * torch.where(present, factor, 1)
    elements = torch.where(present, elements, 0)

    sums = elements.sum(0)
    count = present.sum(0)
    task_loss = sums / count.clamp(min=1)
    if reduction == "none":
        denominator = torch.ones_like(sums)
        weighted = elements if task_weight is None else elements * task_weight
        return weighted.to(logits.dtype), task_loss, count, denominator
    if reduction == "sum":
        total = torch.ones_like(sums)
    elif reduction == "batchmean":
        total = torch.full_like(sums, max(logits.shape[0], 1))
    elif reduction == "taskmean":
        total = count.to(compute)
    elif weight is not None and loss in WEIGHTED_MEAN:
        total = torch.where(present, weight, 0).sum().expand_as(sums)
    else:
        total = count.sum().to(compute).expand_as(sums)
    denominator = torch.where(total == 0, 1, total)
    weighted = sums if task_weight is None else sums * task_weight
    return (weighted / denominator).sum(), task_loss, count, denominator
