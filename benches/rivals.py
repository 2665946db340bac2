"""What one writes without mtlfast: the mean BCE over labelled elements, four ways.

Each is a function of (x, y): logits (N, T), and targets in which a negative integer or a NaN means
that the label is missing. Narrow logits are widened first, as autocast does for torch's BCE: a sum
over a million elements would overflow in float16.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce


def labelled(y):
    return ~y.isnan() if y.is_floating_point() else y >= 0


def where(x, y):
    present = labelled(y)
    target = torch.where(present, y, 0).float()
    elements = bce(x.float(), target, reduction="none")
    return torch.where(present, elements, 0).sum() / present.sum().clamp(min=1)


def index(x, y):
    present = labelled(y)
    return bce(x[present].float(), y[present].float())


def unmasked(x, y):
    return bce(x.float(), y.float())


RIVALS = {"where": where, "index": index, "F.bce": unmasked}


def compiled():
    """Returns a fresh torch.compile of `where`: default mode, one graph per shape."""
    torch.compiler.reset()
    return torch.compile(where, dynamic=False)
