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


def _hinge(h: Tensor) -> Tensor:
    # Not clamp, whose gradient at 0 is 1 up to torch 2.13 and 0 from 2.14 on. Here it is 1.
    return torch.where(h < 0, 0.0, h)


def _power(miss: Tensor, gamma: float | Tensor) -> Tensor:
    # Where miss underflows to 0, the derivative of miss**gamma is infinite for gamma below 1.
    return miss.clamp(min=torch.finfo(miss.dtype).tiny) ** gamma


def sigmoid_focal_loss(
    x: Tensor, y: Tensor, alpha: float, gamma: float, pos_weight: Tensor | None = None
) -> Tensor:
    cross_entropy = binary_cross_entropy_with_logits(x, y, pos_weight)
    x = torch.where(x.isinf(), x.sign() * 1e4, x)  # infinite cross entropy x slope 0 would be NaN
    miss = torch.sigmoid(x) * (1 - y) + torch.sigmoid(-x) * y
    balance = alpha * y + (1 - alpha) * (1 - y) if alpha >= 0 else 1.0
    return balance * cross_entropy * _power(miss, gamma)


def _sigmoid(x: Tensor) -> Tensor:
    """Returns the logistic function, whose slope keeps its digits where it is nearly 1."""
    return torch.where(x < 0, torch.sigmoid(x), 1 - torch.sigmoid(-x))


def _log(hit: Tensor, miss: Tensor, eps: float) -> Tensor:
    """Returns log(max(hit, eps)) with hit = 1 - miss, in the digits of whichever is small."""
    near = miss < 0.5
    of_miss = torch.log1p(-torch.where(near, miss, 0).clamp(max=1 - eps))
    return torch.where(near, of_miss, torch.where(near, 1, hit).clamp(min=eps).log())


def asymmetric_loss(
    x: Tensor, y: Tensor, gamma_neg: float, gamma_pos: float, clip: float, eps: float
) -> Tensor:
    positive, negative = _sigmoid(x), _sigmoid(-x)
    surplus = _hinge(positive - clip)  # 1 - min(negative + clip, 1)
    likelihood = y * _log(positive, negative, eps) + (1 - y) * _log(negative + clip, surplus, eps)
    miss = y * negative + (1 - y) * surplus
    return -likelihood * _power(miss, gamma_pos * y + gamma_neg * (1 - y))


def mse_loss(x: Tensor, y: Tensor) -> Tensor:
    return (x - y) ** 2


def l1_loss(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs()


def smooth_l1_loss(x: Tensor, y: Tensor, beta: float) -> Tensor:
    if beta == 0:
        return l1_loss(x, y)
    d = (x - y).abs()
    far = d >= beta
    near = torch.where(far, 0, d)  # the square of infinity would make the gradient NaN
    return torch.where(far, d - 0.5 * beta, 0.5 * near**2 / beta)


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
    present = target >= 0 if loss in CLASSIFICATION else target == target
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
        if task_weight is not None:
            elements = elements * torch.where(present, task_weight, 1)
        return elements.to(logits.dtype), task_loss, count, denominator
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
    weighted = sums if task_weight is None else sums * torch.where(count > 0, task_weight, 1)
    return (weighted / denominator).sum(), task_loss, count, denominator


DISTANCES = ("euclidean", "manhattan", "cosine")
SMALLEST_NORM = 1e-12


def _root(square: Tensor) -> Tensor:
    """Returns the square root; at 0 its derivatives, the second too, are 0."""
    zero = square == 0
    return torch.where(zero, 0, torch.where(zero, 1, square).sqrt())


def unit(x: Tensor) -> Tensor:
    """Returns rows of norm 1; x / 1e-12, without a gradient, where the norm is below 1e-12."""
    norm = _root((x**2).sum(-1, keepdim=True))
    short = norm < SMALLEST_NORM
    return torch.where(short, x.detach() / SMALLEST_NORM, x / torch.where(short, 1, norm))


def distance(a: Tensor, b: Tensor, p: float = 2.0, eps: float = 0.0) -> Tensor:
    """Returns the p-norm of a - b + eps along the last dimension; its gradient at 0 is 0."""
    t = a - b + eps
    return _root((t**2).sum(-1)) if p == 2 else torch.linalg.vector_norm(t, ord=p, dim=-1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum(-1)


def contrastive_loss(
    x1: Tensor,
    x2: Tensor,
    same: Tensor,
    margin: float | Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    kind: str,
    normalize: bool,
) -> Tensor:
    if kind == "cosine":
        a, b = unit(x1), unit(x2)
        # a . b by their difference, for the digits of rows that nearly coincide. A row is as long
        # as unit() makes it: its length has no gradient.
        cosine = ((a**2).sum(-1) + (b**2).sum(-1)).detach() / 2 - squared_distance(a, b) / 2
        logit = cosine if scale is None else scale * cosine
        logit = logit if bias is None else logit + bias
        return 0.5 * torch.where(same, torch.sigmoid(-logit), torch.sigmoid(logit)) ** 2
    a, b = (unit(x1), unit(x2)) if normalize else (x1, x2)
    d = distance(a, b, 1.0 if kind == "manhattan" else 2.0)
    return 0.5 * torch.where(same, d, _hinge(margin - d)) ** 2


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float | Tensor,
    p: float,
    eps: float,
    swap: bool,
    normalize: bool,
    squared: bool,
    soft: bool,
) -> Tensor:
    a, b, c = (unit(x) if normalize else x for x in (anchor, positive, negative))
    near, far = distance(a, b, p, eps), distance(a, c, p, eps)
    near, far = (near**2, far**2) if squared else (near, far)
    if swap:
        other = distance(b, c, p, eps)
        far = torch.minimum(far, other**2 if squared else other)
    violation = near - far + margin
    return -logsigmoid(-violation) if soft else _hinge(violation)


def hierarchical_triplet_loss(
    anchor: Tensor, levels: Sequence[Tensor], gaps: Sequence[float | Tensor], squared: bool
) -> Tensor:
    a = unit(anchor)
    measure = squared_distance if squared else distance
    d = [measure(a, unit(level)) for level in levels]
    terms = [_hinge(d[k] - d[k + 1] + gap) for k, gap in enumerate(gaps)]
    return 0.5 * torch.stack(terms).sum(0)


def rows(
    rows: Sequence[Tensor],
    same: Tensor | None,
    margin: Tensor | None,
    sample_weight: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    loss: str,
    params: Sequence[float],
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Returns (loss, denominator), as the native op does; loss is (N,) for "none"."""
    dtype = rows[0].dtype
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    anchor, *others = (x.to(compute) for x in rows)
    first, *rest = params
    at = first if margin is None else margin
    if loss == "contrastive_loss" and same is not None:
        kind, normalize = DISTANCES[int(rest[0])], rest[1] > 0
        elements = contrastive_loss(anchor, others[0], same, at, scale, bias, kind, normalize)
    elif loss == "triplet_margin_loss":
        p, eps, *flags = rest
        triplet = (anchor, others[0], others[1])
        elements = triplet_margin_loss(*triplet, at, p, eps, *(flag > 0 for flag in flags))
    else:
        gaps = rest if margin is None else [margin]
        elements = hierarchical_triplet_loss(anchor, others, gaps, first > 0)
    weighted = elements if sample_weight is None else elements * sample_weight
    if reduction == "none":
        return weighted.to(dtype), weighted.new_ones(())
    if reduction == "nonzero":
        soft = loss == "triplet_margin_loss" and rest[-1] > 0
        counted = torch.ones_like(elements) if soft else elements > 0
        denominator = counted.sum().clamp(min=1).to(compute)
    else:
        denominator = weighted.new_full((), max(len(weighted), 1) if reduction == "mean" else 1)
    return weighted.sum() / denominator, denominator
