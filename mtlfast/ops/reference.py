"""The specification: each loss in a few lines of plain, differentiable PyTorch.

Nothing here is clever and no gradient is written by hand; the kernels are tested against these
functions in float64. Formulas and sources stand in the public docstrings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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


def minkowski_distance(a: Tensor, b: Tensor, p: float = 2.0, eps: float = 0.0) -> Tensor:
    """Returns the p-norm of a - b + eps along the last dimension; its gradient at 0 is 0."""
    t = a - b + eps
    return _root((t**2).sum(-1)) if p == 2 else torch.linalg.vector_norm(t, ord=p, dim=-1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum(-1)


def contrastive_loss(
    x1: Tensor,
    x2: Tensor,
    *,
    same: Tensor,
    margin: float | Tensor,
    distance: str,
    normalize: bool,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    if distance == "cosine":
        a, b = unit(x1), unit(x2)
        # a . b by their difference, for the digits of rows that nearly coincide. A row is as long
        # as unit() makes it: its length has no gradient.
        cosine = ((a**2).sum(-1) + (b**2).sum(-1)).detach() / 2 - squared_distance(a, b) / 2
        logit = cosine if scale is None else scale * cosine
        logit = logit if bias is None else logit + bias
        return 0.5 * torch.where(same, torch.sigmoid(-logit), torch.sigmoid(logit)) ** 2
    a, b = (unit(x1), unit(x2)) if normalize else (x1, x2)
    d = minkowski_distance(a, b, 1.0 if distance == "manhattan" else 2.0)
    return 0.5 * torch.where(same, d, _hinge(margin - d)) ** 2


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float | Tensor,
    p: float,
    eps: float,
    swap: bool,
    normalize: bool,
    squared: bool,
    soft: bool,
) -> Tensor:
    a, b, c = (unit(x) if normalize else x for x in (anchor, positive, negative))
    near, far = minkowski_distance(a, b, p, eps), minkowski_distance(a, c, p, eps)
    near, far = (near**2, far**2) if squared else (near, far)
    if swap:
        other = minkowski_distance(b, c, p, eps)
        far = torch.minimum(far, other**2 if squared else other)
    violation = near - far + margin
    return -logsigmoid(-violation) if soft else _hinge(violation)


def hierarchical_triplet_loss(
    anchor: Tensor, *levels: Tensor, squared: bool, gaps: Sequence[float | Tensor]
) -> Tensor:
    a = unit(anchor)
    measure = squared_distance if squared else minkowski_distance
    d = [measure(a, unit(level)) for level in levels]
    terms = [_hinge(d[k] - d[k + 1] + gap) for k, gap in enumerate(gaps)]
    return 0.5 * torch.stack(terms).sum(0)


def normalized_triplet_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *, squared: bool, margin: float | Tensor
) -> Tensor:
    return hierarchical_triplet_loss(anchor, positive, negative, squared=squared, gaps=[margin])
