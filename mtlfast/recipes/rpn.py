"""Faster R-CNN's region proposal network: is there an object at this anchor, and where exactly.

It draws its own images (filled rectangles on noise). With the paper's three scales and three aspect
ratios on a grid of 15 x 20 places, an image has 2700 anchors. Of these, 32 are labelled: up to half
of them positive (IoU of at least 0.7, or the largest of an object), the others negative (IoU below
0.3); all others, and those that cross the border, are ignored. Eight images make a step of 256
anchors on 2400 places:

    L = sum of log losses / 256 + 10 * sum of smooth-L1 losses of the positives / 2400
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import mtlfast.functional as MF
from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.boxes import EACH, SAMPLED, anchors, draw, iou, proposals
from mtlfast.recipes.material.layers import convolutions
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Task

__all__ = ["build", "tasks"]

CLAIM = "lambda 10, about as good from 1 to 100"
DATA = None
VARIANTS = {
    "paper": "lambda 10, N_cls 256, N_reg 2400, smooth L1 with beta 1",
    "py-faster-rcnn": "lambda 1, both sums over the 256 sampled anchors, beta 1/9",
}
EPOCHS = 12
WEIGHTING = "fixed"
BATCH_SIZE = 8
PARTS = {"train": 400, "weight_data": 40, "validation": 40, "test": 200}


def build(*, data: None, seed: int, variant: str = "paper", **options: Any) -> Experiment:
    """Returns the experiment: a small convolutional body, objectness and deltas at every anchor.

    Args:
        data, seed, variant, options: as for every recipe.
    """
    parts, boxes = {}, {}
    for number, (name, size) in enumerate(PARTS.items(), 1):
        # The test images are always the same.
        generator = torch.Generator().manual_seed(1000 * seed + number if name != "test" else 0)
        parts[name], boxes[name] = draw(size, generator)
    torch.manual_seed(seed)
    own: Any = {"seed": seed, "rate": 2e-3, "annealed": True}
    trainer = make_trainer(network(), tasks(variant), parts["train"], BATCH_SIZE, **own, **options)

    def measure() -> dict[str, float]:
        outputs = trainer.predict(parts["test"])
        found = map(proposals, outputs["objectness"][..., 0], outputs["deltas"])
        pairs = zip(boxes["test"], found, strict=True)
        best = torch.cat([iou(true, proposed).amax(1) for true, proposed in pairs])
        return {f"recall at IoU {x}": (best >= x).float().mean().item() for x in (0.5, 0.7)}

    return Experiment(trainer, **parts, batch_size=BATCH_SIZE, measure=measure)


def tasks(variant: str) -> list[Task]:
    """Returns the two losses: (N, A) labels -1, 0, 1, and (N, A, 4) deltas."""
    paper = variant == "paper"
    return [
        Task(
            "objectness",
            output="objectness",
            target="objectness",
            loss="binary_cross_entropy_with_logits",
            normalizer=BATCH_SIZE * SAMPLED,
            metrics=["auroc"],
        ),
        Task(
            "deltas",
            output="deltas",
            target="deltas",
            loss=partial(MF.smooth_l1_loss, beta=1.0 if paper else 1 / 9),
            weight=10.0 if paper else 1.0,
            normalizer=BATCH_SIZE * (len(anchors()) // EACH if paper else SAMPLED),
        ),
    ]


class PerAnchor(nn.Module):
    """A 1 x 1 convolution with ``width`` outputs for each anchor: (N, A, width)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.convolution = nn.Conv2d(channels, EACH * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).movedim(1, -1).reshape(len(x), -1, self.width)


def network() -> MultiTaskModel:
    """Returns three strided convolutions, a 3 x 3 window on them, and the two heads."""
    layers = convolutions((1, 16, 32, 64, 64), 5, (2, 2, 2, 1))
    heads = {"objectness": PerAnchor(64, 1), "deltas": PerAnchor(64, 4)}
    return MultiTaskModel(nn.Sequential(*layers), heads)
