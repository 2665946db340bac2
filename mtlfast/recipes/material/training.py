"""How recipes train: an optimizer over all that is learned, a weighting that suits the length."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any

import torch
from torch.optim import Optimizer

from mtlfast.recipes.registry import make_weighting
from mtlfast.train import MultiTaskModel, Task, Trainer
from mtlfast.weighting import Weighting

__all__ = ["make_trainer"]


def make_trainer(
    model: MultiTaskModel,
    tasks: Sequence[Task],
    train: Sized,
    batch_size: int,
    *,
    epochs: int,
    seed: int,
    weighting: str | Weighting,
    rate: float = 1e-3,
    annealed: bool = False,
    optimizer: Callable[[Weighting], Optimizer] | None = None,
    **options: Any,
) -> Trainer:
    """Returns the trainer of a run.

    Args:
        model, tasks, seed: the trainer's.
        train, batch_size, epochs: what it will be fitted on, how many at a time, how often.
        weighting: the name of one, which is made for a run of that length, or one.
        rate: the learning rate.
        annealed: whether it falls to 0 by a cosine in the course of the run.
        optimizer: makes the optimizer, given the weighting, whose parameters are learned too; by
            default Adam for them and the model's.
        options: more for the trainer.
    """
    steps = epochs * -(-len(train) // batch_size)
    if isinstance(weighting, str):
        number = sum(len(task.names) for task in tasks)
        weighting = make_weighting(weighting, number, steps, epochs, seed=seed)
    if optimizer is None:
        learner: Optimizer = torch.optim.Adam(
            [*model.parameters(), *weighting.parameters()], lr=rate
        )
    else:
        learner = optimizer(weighting)
    if annealed:
        options["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(learner, steps)
    return Trainer(model, tasks, learner, weighting=weighting, seed=seed, **options)
