"""Margins for the triplet losses that follow from the data."""

from __future__ import annotations

import math

from torch import Tensor

from mtlfast.functional.checks import check_real, check_scalar, check_tensor, fail

__all__ = ["attribute_margin"]


def attribute_margin(
    attributes_a: Tensor, attributes_n: Tensor, base: float, scale: float
) -> Tensor:
    """Returns a margin per row that grows as two sets of attributes differ.

    With A and B the attributes that are present in one row and in the other,

        m = base + scale (1 - |A ∩ B| / |A ∪ B|)

    Two empty sets count as equal. No gradient; for the `margin` of the triplet losses.

    Args:
        attributes_a, attributes_n: (N, L), one column per attribute; present where positive.
        base, scale: numbers.

    Returns:
        (N,) float32 margins.

    Raises:
        ValueError, TypeError: where the shapes differ or no real numbers came.

    Source: Zhang et al., Embedding Label Structures for Fine-Grained Feature Representation,
    section 3.3.

    Example:
        >>> import torch
        >>> a, n = torch.tensor([[1, 1, 0], [0, 0, 0]]), torch.tensor([[1, 0, 1], [0, 0, 0]])
        >>> attribute_margin(a, n, 0.25, 0.75)
        tensor([0.7500, 0.2500])
    """
    for name, number in (("base", base), ("scale", scale)):
        check_scalar(name, number)
        if not math.isfinite(number):
            fail(f"{name} must be finite; got {number}.")
    check_tensor("attributes_a", attributes_a, None, "")
    check_tensor("attributes_n", attributes_n, attributes_a.device, "attributes_a")
    for name, tensor in (("attributes_a", attributes_a), ("attributes_n", attributes_n)):
        check_real(name, tensor)
        if tensor.dim() != 2 or tensor.shape != attributes_a.shape:
            fail(f"{name} must be (N, L), like attributes_a; got {tuple(tensor.shape)}.")
    a, b = attributes_a > 0, attributes_n > 0
    shared, either = (a & b).sum(1), (a | b).sum(1)
    similarity = (shared.float() / either.clamp(min=1)).masked_fill(either == 0, 1.0)
    return base + scale * (1 - similarity)
