"""The specification of the in-batch losses: plain, differentiable PyTorch on (N, M, D) differences.

For small batches: the triplets are an (N, M, M) tensor. Formulas and sources stand in the public
docstrings.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mtlfast.ops.reference import squared_distance


def distances(x: Tensor, y: Tensor, squared: bool) -> Tensor:
    """Returns (N, M) distances; the gradient at distance 0 is 0."""
    square = squared_distance(x[:, None], y[None])
    if squared:
        return square
    apart = square != 0
    return torch.where(apart, torch.sqrt(torch.where(apart, square, 1)), 0)


def matches(labels: Tensor, ref_labels: Tensor) -> Tensor:
    """Returns (N, M): whether labels are equal or, if multi-hot, whether one is shared."""
    if labels.dim() == 1:
        return labels[:, None] == ref_labels[None]
    return ((labels > 0)[:, None] & (ref_labels > 0)[None]).any(-1)


def reduce(losses: Tensor, counted: Tensor, mined: Tensor, reduction: str) -> Tensor:
    """Returns the sum of the mined losses over the number that the reduction divides by."""
    total = torch.where(mined, losses, 0).sum()
    if reduction == "sum":
        return total
    return total / (counted & mined if reduction == "nonzero" else mined).sum().clamp(min=1)


def batch_triplet_loss(
    d: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    mining: str,
    margin: float,
    soft: bool,
    reduction: str,
) -> Tensor:
    """Returns the loss of the (N, M) distances' triplets."""
    if mining == "hard":
        farthest = torch.where(positive, d, -torch.inf).max(1, keepdim=True).indices
        nearest = torch.where(negative, d, torch.inf).min(1, keepdim=True).indices
        near, far = d.gather(1, farthest), d.gather(1, nearest)
        mined = positive.any(1, keepdim=True) & negative.any(1, keepdim=True)
    else:
        near, far = d[:, :, None], d[:, None, :]
        mined = positive[:, :, None] & negative[:, None, :]
        if mining == "semihard":  # a NaN is neither, and stays
            mined = mined & ~(far - near <= 0) & ~(far - near > margin)
    violation = near - far + margin
    losses = -logsigmoid(-violation) if soft else torch.relu(violation)
    return reduce(losses, torch.ones_like(mined) if soft else losses > 0, mined, reduction)


def batch_contrastive_loss(
    d: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    pos_margin: float,
    neg_margin: float,
    reduction: str,
) -> Tensor:
    """Returns the loss of positive pairs plus that of negative ones."""
    near, far = torch.relu(d - pos_margin), torch.relu(neg_margin - d)
    return reduce(near, near > 0, positive, reduction) + reduce(far, far > 0, negative, reduction)
