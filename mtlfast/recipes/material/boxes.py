"""Anchors and boxes, and drawn images of rectangles: what the rpn recipe learns from.

A box is its corners (x1, y1, x2, y2). Every image is of the same size and has the same anchors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtlfast.train import Samples

__all__ = ["EACH", "SAMPLED", "anchors", "decode", "draw", "encode", "iou", "label", "proposals"]

HEIGHT, WIDTH, STRIDE = 120, 160, 8
SIZES, RATIOS = (16, 32, 64), (0.5, 1.0, 2.0)
EACH = len(SIZES) * len(RATIOS)  # anchors at a place
SAMPLED = 32


def anchors() -> Tensor:
    """Returns the anchors of an image as corners: (A, 4), nine at each place, row by row."""
    y = (torch.arange(HEIGHT // STRIDE) + 0.5) * STRIDE
    x = (torch.arange(WIDTH // STRIDE) + 0.5) * STRIDE
    shapes = torch.tensor([(s * r**-0.5, s * r**0.5) for s in SIZES for r in RATIOS])
    places = torch.cartesian_prod(y, x).flip(1)[:, None]
    return torch.cat((places - shapes / 2, places + shapes / 2), -1).reshape(-1, 4)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Returns the deltas (x - xa) / wa, (y - ya) / ha, log w / wa, log h / ha: (..., 4)."""
    size, own = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    shift = (boxes[..., :2] + size / 2 - anchors[..., :2] - own / 2) / own
    return torch.cat((shift, (size / own).log()), -1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Returns the boxes that deltas stand for, the inverse of ``encode``: (..., 4)."""
    own = anchors[..., 2:] - anchors[..., :2]
    center = anchors[..., :2] + own / 2 + deltas[..., :2] * own
    size = deltas[..., 2:].exp() * own
    return torch.cat((center - size / 2, center + size / 2), -1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the intersection over union of all pairs of boxes: (N, M)."""
    low = torch.maximum(first[:, None, :2], second[:, :2])
    high = torch.minimum(first[:, None, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).prod(-1) for box in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def label(boxes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns an image's labels, (A,) int8 with -1 where ignored, and deltas, NaN if not positive.

    Args:
        boxes: (M, 4), M may be 0.
        generator: samples the anchors that are labelled.
    """
    grid = anchors()
    inside = (grid[:, :2] >= 0).all(1) & (grid[:, 2:] <= torch.tensor([WIDTH, HEIGHT])).all(1)
    labels = torch.full((len(grid),), -1, dtype=torch.int8)
    deltas = torch.full((len(grid), 4), torch.nan)
    overlap = iou(grid, boxes) * inside[:, None] if len(boxes) else torch.zeros(len(grid), 1)
    best, owner = overlap.max(1)
    positive = (best >= 0.7) | ((overlap == overlap.amax(0)) & (overlap > 0)).any(1)
    order = torch.randperm(len(grid), generator=generator)
    chosen = order[positive[order]][: SAMPLED // 2]
    negative = (best < 0.3) & inside & ~positive
    labels[order[negative[order]][: SAMPLED - len(chosen)]] = 0
    labels[chosen] = 1
    if len(chosen):
        deltas[chosen] = encode(boxes[owner[chosen]], grid[chosen])
    return labels, deltas


def draw(count: int, generator: torch.Generator) -> tuple[Samples, list[Tensor]]:
    """Returns images of one to three rectangles on noise, and their boxes."""
    images = 0.5 + 0.15 * torch.randn(count, 1, HEIGHT, WIDTH, generator=generator)
    boxes, targets = [], []
    for image in images:
        numbers = torch.rand(
            int(torch.randint(1, 4, (), generator=generator)), 5, generator=generator
        )
        size = 12 * 6 ** numbers[:, :2]
        low = numbers[:, 2:4] * (torch.tensor([WIDTH, HEIGHT]) - size)
        boxes.append(torch.cat((low, low + size), 1).round())
        for (x1, y1, x2, y2), shade in zip(boxes[-1].int().tolist(), numbers[:, 4], strict=True):
            image[:, y1:y2, x1:x2] += 0.4 * (shade - 0.5).sign() * (1 + shade)
        targets.append(label(boxes[-1], generator))
    labels, deltas = map(torch.stack, zip(*targets, strict=True))
    return Samples(images, {"objectness": labels, "deltas": deltas}), boxes


def proposals(scores: Tensor, deltas: Tensor, most: int = 10) -> Tensor:
    """Returns an image's best boxes, those left out that overlap a better one by IoU 0.7."""
    order = scores.argsort(descending=True)[:300]
    boxes = decode(deltas[order], anchors()[order])
    overlap, kept = iou(boxes, boxes), list[int]()
    for number in range(len(boxes)):
        if len(kept) < most and not (overlap[number, kept] > 0.7).any():
            kept.append(number)
    return boxes[kept]
