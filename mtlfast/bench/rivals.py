"""What one writes without mtlfast: every function computes the same number as the public one.

The pointwise rivals are functions of (x, y), logits (N, T) and targets in which a NaN, and of class
labels a negative number too, means that the label is missing. Narrow logits are widened first, as
autocast does for torch's BCE: a sum over a million elements would overflow in float16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlfast.bench.case import NotRun
from mtlfast.bench.libraries import LIBRARIES

__all__ = ["FORMULAS", "compiled", "rival"]

Function = Callable[..., Tensor]
bce = F.binary_cross_entropy_with_logits


def labelled(y: Tensor) -> Tensor:
    """Returns where a class label is present."""
    return y >= 0


def measured(y: Tensor) -> Tensor:
    """Returns where the target of a regression is present."""
    return ~y.isnan()


def wide(x: Tensor) -> Tensor:
    """Returns float16 and bfloat16 as float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def where(elements: Function, present_in: Function = labelled) -> Function:
    """Returns the mean over labelled elements of a function of (x, y), by `torch.where`."""

    def mean(x: Tensor, y: Tensor) -> Tensor:
        present = present_in(y)
        x = wide(x)
        values = elements(x, torch.where(present, y, 0).to(x.dtype))
        return torch.where(present, values, 0).sum() / present.sum().clamp(min=1)

    return mean


def index(x: Tensor, y: Tensor) -> Tensor:
    """Returns the same of BCE, by indexing the labelled elements."""
    present = labelled(y)
    x = wide(x[present])
    return bce(x, y[present].to(x.dtype))


def unmasked(x: Tensor, y: Tensor) -> Tensor:
    """Returns torch's BCE of targets without a missing label."""
    x = wide(x)
    return bce(x, y.to(x.dtype))


def focal(x: Tensor, y: Tensor) -> Tensor:
    """Returns the elements of torchvision.ops.sigmoid_focal_loss, alpha 0.25 and gamma 2.

    Written out from the formula of torchvision/ops/focal_loss.py, step by step as there.
    """
    p = torch.sigmoid(x)
    p_t = p * y + (1 - p) * (1 - y)
    alpha_t = 0.25 * y + 0.75 * (1 - y)
    return alpha_t * (bce(x, y, reduction="none") * (1 - p_t) ** 2)


def asymmetric(x: Tensor, y: Tensor) -> Tensor:
    """Returns the elements of timm's AsymmetricLossMultiLabel: gammas 4 and 1, clip 0.05.

    Written out from the formula of timm/loss/asymmetric_loss.py, step by step as there.
    """
    p = torch.sigmoid(x)
    q = (1 - p + 0.05).clamp(max=1)
    log_likelihood = y * p.clamp(min=1e-8).log() + (1 - y) * q.clamp(min=1e-8).log()
    p_t = p * y + q * (1 - y)
    return -log_likelihood * (1 - p_t) ** (y + 4 * (1 - y))


def normalized_triplet(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Returns half of torch's triplet loss of normalised rows."""
    a, p, n = (F.normalize(x) for x in (anchor, positive, negative))
    return 0.5 * F.triplet_margin_loss(a, p, n, margin=0.2, eps=0.0)


def hierarchical(anchor: Tensor, *levels: Tensor, gaps: tuple[float, ...]) -> Tensor:
    """Returns the mean over normalised rows of half the sum of hinges between levels."""
    a = F.normalize(anchor)
    d = [((a - F.normalize(level)) ** 2).sum(1) for level in levels]
    terms = [F.relu(d[k] - d[k + 1] + gap) for k, gap in enumerate(gaps)]
    return 0.5 * torch.stack(terms).sum(0).mean()


def contrastive(x1: Tensor, x2: Tensor, same: Tensor) -> Tensor:
    """Returns the mean over pairs of half the squared distance, or of half the squared hinge."""
    d = F.pairwise_distance(x1, x2, eps=0.0)
    return 0.5 * torch.where(same, d, F.relu(1.0 - d)).square().mean()


def widened(function: Function) -> Function:
    """Returns the function of rows that float16 and bfloat16 are widened for."""

    def of_wide(*rows: Tensor) -> Tensor:
        return function(*(wide(row) if row.is_floating_point() else row for row in rows))

    return of_wide


# Of each loss and form; "compile" is torch.compile of the first.
FORMULAS: dict[str, dict[str, Function]] = {
    "binary_cross_entropy_with_logits": {
        "where": where(partial(bce, reduction="none")),
        "index": index,
        "F.bce": unmasked,
    },
    "sigmoid_focal_loss": {"torchvision": where(focal)},
    "asymmetric_loss": {"timm": where(asymmetric)},
    "mse_loss": {"where": where(partial(F.mse_loss, reduction="none"), measured)},
    "l1_loss": {"where": where(partial(F.l1_loss, reduction="none"), measured)},
    "smooth_l1_loss": {"where": where(partial(F.smooth_l1_loss, reduction="none"), measured)},
    "normalized_triplet_loss": {"eager": widened(partial(hierarchical, gaps=(0.2,)))},
    "normalized_triplet_loss distances": {"eager": widened(normalized_triplet)},
    "hierarchical_triplet_loss": {"eager": widened(partial(hierarchical, gaps=(0.2, 0.1)))},
    "triplet_margin_loss": {"eager": widened(F.triplet_margin_loss)},
    "contrastive_loss": {"eager": widened(contrastive)},
}


def compiled(function: Function) -> Function:
    """Returns a fresh torch.compile of `function`: default mode, one graph per shape."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def rival(what: str, who: str) -> Function:
    """Returns a function of a case's inputs.

    Args:
        what: the loss and its form, ``Case.what``.
        who: the rival.

    Raises:
        NotRun: where its library is not installed.
    """
    if who in LIBRARIES:
        return widened(LIBRARIES[who](what))
    formulas = FORMULAS[what]
    if who == "compile":
        return compiled(next(iter(formulas.values())))
    if who not in formulas:
        raise NotRun(f"there is no {who} of {what}")
    return formulas[who]
