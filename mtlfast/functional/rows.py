"""Losses on rows of embeddings, (N, D): contrastive, triplet and hierarchical triplet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mtlfast.functional.checks import (
    check_choice,
    check_flags,
    check_number,
    check_tensor,
    fail,
)
from mtlfast.functional.docs import documented
from mtlfast.functional.rows_call import MOST_LEVELS, check_hierarchy, check_margin, rows
from mtlfast.ops.catalogue import CHOICES

__all__ = [
    "contrastive_loss",
    "hierarchical_triplet_loss",
    "normalized_triplet_loss",
    "triplet_margin_loss",
]


@documented
def contrastive_loss(
    x1: Tensor,
    x2: Tensor,
    same: Tensor,
    margin: float | Tensor = 1.0,
    *,
    distance: str = "euclidean",
    scale: Tensor | float | None = None,
    bias: Tensor | float | None = None,
    normalize: bool = False,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Returns the contrastive loss of pairs of rows.

    With d the distance of a pair,

        l = d^2 / 2              where same
            max(0, m - d)^2 / 2  elsewhere

    and for `distance="cosine"`, with y = 1 where same, else 0,

        l = (y - sigmoid(w cos(x1, x2) + b))^2 / 2

    The hinge is on the distance and then squared. At d = 0 the gradient is 0.
    <rows>

    Args:
        x1, x2: <embeddings>
        same: (N,) bool, or numbers that are positive where the pair belongs together: {0, 1} and
            {-1, +1} both do. A weight of 0 in `sample_weight` leaves a pair out.
        <margin>
        distance: "euclidean", "manhattan" or "cosine".
        scale, bias: w and b of the cosine form, numbers or scalar tensors to be learned; default 1
            and 0. The cosine form takes no margin.
        normalize: compare x / |x|, as the cosine form always does.
        <shared>

    Returns:
        <row_returns>

    Raises:
        <raises>

    Source: Sun et al., Deep Learning Face Representation by Joint Identification-Verification
    (DeepID2), equations 3 to 5; Hadsell et al., Dimensionality Reduction by Learning an Invariant
    Mapping.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0]])
        >>> contrastive_loss(x, torch.zeros(2, 3), torch.tensor([1, 0]), 4.0, reduction="none")
        tensor([4.5000, 0.5000])
    """
    check_choice("distance", distance, CHOICES["distance"])
    if distance != "cosine" and (scale is not None or bias is not None):
        fail(f"scale and bias belong to distance='cosine'; got distance={distance!r}.")
    check_flags(normalize=normalize)
    check_tensor("same", same, None, "x1")
    check_margin(margin, 0.0, inclusive=True)
    return rows(
        "contrastive_loss",
        {"x1": x1, "x2": x2},
        {"margin": margin, "distance": distance, "normalize": normalize},
        reduction,
        same=same,
        scale=scale,
        bias=bias,
        sample_weight=sample_weight,
        backend=backend,
    )


@documented
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float | Tensor = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    normalize: bool = False,
    squared: bool = False,
    soft: bool = False,
    sample_weight: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns the triplet margin loss of rows.

    With d(x, y) the p-norm of x - y + eps (its square if `squared`),

        l = max(0, d(a, p) - d(a, n) + m)

    and softplus in place of the hinge if `soft`. With torch's arguments alone, values and gradients
    are torch's, broadcasting of the rows included; at the exact edge the gradient is 1, as there up
    to torch 2.13.
    <rows>

    Args:
        anchor, positive, negative: <embeddings>
        <margin>
        p: the norm; 1 and 2 are fast, and infinity, 0 and less are the reference's alone.
        eps: added to every difference.
        swap: take d(p, n) instead of d(a, n) where it is smaller.
        size_average, reduce: deprecated in torch; they choose the reduction as there.
        normalize: compare x / |x|.
        squared: compare squared distances.
        soft: softplus(d(a, p) - d(a, n) + m), which counts as positive in every row; any margin is
            allowed then.
        <shared>

    Returns:
        <row_returns>

    Raises:
        <raises>

    Source: torch.nn.functional.triplet_margin_loss; soft as in Hermans et al., In Defense of the
    Triplet Loss for Person Re-Identification.

    Example:
        >>> import torch
        >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.ones(1, 2)
        >>> triplet_margin_loss(a, p, n, margin=1.0, eps=0.0, squared=True)
        tensor(24.)
    """
    check_flags(swap=swap, normalize=normalize, squared=squared, soft=soft)
    check_margin(margin, -float("inf") if soft else 0.0, inclusive=soft)
    check_number("p", p)
    check_number("eps", eps)
    return rows(
        "triplet_margin_loss",
        {"anchor": anchor, "positive": positive, "negative": negative},
        {
            "margin": margin,
            "p": p,
            "eps": eps,
            "swap": swap,
            "normalize": normalize,
            "squared": squared,
            "soft": soft,
        },
        reduction,
        size_average=size_average,
        reduce=reduce,
        sample_weight=sample_weight,
        backend=backend,
        fused=None if 0 < p < float("inf") else f"p = {p} has no kernel",
        broadcasts=True,
    )


@documented
def normalized_triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float | Tensor = 0.2,
    *,
    squared: bool = True,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Returns the triplet loss of rows scaled to unit length.

    With u = x / |x| and D the squared distance (the distance unless `squared`),

        l = max(0, D(u_a, u_p) - D(u_a, u_n) + m) / 2

    <rows>

    Args:
        anchor, positive, negative: <embeddings>
        <margin>
        squared: compare squared distances.
        <shared>

    Returns:
        <row_returns>

    Raises:
        <raises>

    Source: Schroff et al., FaceNet; with the factor one half of Zhang et al., Embedding Label
    Structures for Fine-Grained Feature Representation, equation 3.

    Example:
        >>> import torch
        >>> a, p, n = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]], [[0.0, 5.0]]])
        >>> normalized_triplet_loss(a, p, n, margin=0.6)
        tensor(0.1400)
    """
    check_flags(squared=squared)
    check_margin(margin, 0.0, inclusive=False)
    return rows(
        "normalized_triplet_loss",
        {"anchor": anchor, "positive": positive, "negative": negative},
        {"squared": squared, "margin": margin},
        reduction,
        sample_weight=sample_weight,
        backend=backend,
    )


@documented
def hierarchical_triplet_loss(
    anchor: Tensor,
    levels: Sequence[Tensor],
    margins: Sequence[float],
    *,
    squared: bool = True,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Returns the triplet loss over a hierarchy of labels, from the nearest level to the farthest.

    With unit rows, D_k the (squared) distance of the anchor and level k, and m_K = 0,

        l = sum_(k < K) max(0, D_k - D_(k+1) + m_k - m_(k+1)) / 2

    Two levels make the normalised triplet, three (same model, same make, another) the quadruplet.
    <rows>

    Args:
        anchor: <embeddings>
        levels: K >= 2 tensors of the shape of anchor, from nearest to farthest.
        margins: m_1 > ... > m_{K-1} > 0, numbers.
        squared: compare squared distances.
        <shared>

    Returns:
        <row_returns>

    Raises:
        <raises>

    Source: Zhang et al., Embedding Label Structures for Fine-Grained Feature Representation,
    equations 4 and 5.

    Example:
        >>> import torch
        >>> anchor, near, far = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]], [[0.0, 5.0]]])
        >>> hierarchical_triplet_loss(anchor, [near, far], [0.6])
        tensor(0.1400)
    """
    check_flags(squared=squared)
    levels, gaps = check_hierarchy(levels, margins)
    return rows(
        "hierarchical_triplet_loss",
        {"anchor": anchor, **{f"levels[{k}]": level for k, level in enumerate(levels)}},
        {"squared": squared, "gaps": gaps},
        reduction,
        sample_weight=sample_weight,
        backend=backend,
        fused=None if len(levels) <= MOST_LEVELS else f"the kernels take {MOST_LEVELS} levels",
    )
