"""Layers that several recipes are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["ByClass", "EachImage", "convolutions"]


def convolutions(
    channels: Sequence[int], size: int, strides: Sequence[int] = (), *, pooled: bool = False
) -> list[nn.Module]:
    """Returns convolutions, each normalised and rectified.

    Args:
        channels: those of the images, and of each convolution.
        size: height and width of a kernel, odd.
        strides: of each convolution; by default 1.
        pooled: whether each halves height and width by its largest values.
    """
    layers: list[nn.Module] = []
    steps = strides or [1] * (len(channels) - 1)
    for (before, after), stride in zip(pairwise(channels), steps, strict=True):
        convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
    return layers


class EachImage(nn.Sequential):
    """Layers that see the images of an item one by one: (N, P, ...) to (N, P, D)."""

    def forward(self, item: Tensor) -> Tensor:
        """Returns the features."""
        return super().forward(item.flatten(0, 1)).unflatten(0, item.shape[:2])


class ByClass(nn.Linear):
    """Classifies each image of an item: (N, P, D) to (N, C, P), classes where losses want them."""

    def forward(self, feature: Tensor) -> Tensor:
        """Returns the logits."""
        return super().forward(feature).transpose(1, 2)
