"""Recipes: whole multi-task systems, one file each, written with the public API only.

A recipe module has ``DATA``, what ``--data`` must name (None where it brings its own), its defaults
``EPOCHS`` and ``WEIGHTING``, and ``build(**options)``, which returns an ``Experiment``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mtlfast.train import Samples, Trainer
from mtlfast.weighting import (
    DynamicWeightAverage,
    Fixed,
    GeometricMean,
    RandomWeights,
    Uncertainty,
    ValidationLossTrend,
    Weighting,
)

__all__ = ["RECIPES", "WEIGHTINGS", "Experiment", "check_weighting", "make_weighting", "recipe"]

RECIPES = ("digits",)
WEIGHTINGS: dict[str, Any] = {
    "fixed": Fixed,
    "validation-loss-trend": ValidationLossTrend,
    "dynamic-weight-average": DynamicWeightAverage,
    "uncertainty": Uncertainty,
    "random-weights": RandomWeights,
    "geometric-mean": GeometricMean,
}
# How often a run renews weights that work in intervals; the first interval renews none.
RENEWALS = 25


@dataclass(frozen=True)
class Experiment:
    """A trainer and its data, ready to run.

    Attributes:
        trainer: the trainer, output directory and seed set.
        train: what is fitted.
        weight_data: what an adaptive weighting observes.
        validation: what is scored after each epoch, for curves and choices.
        test: what is scored once, at the end.
        batch_size: samples per optimizer step.
    """

    trainer: Trainer
    train: Samples
    weight_data: Samples
    validation: Samples
    test: Samples
    batch_size: int

    def describe(self) -> str:
        """Returns the size of each part of the data, in words."""
        parts = ("train", "weight_data", "validation", "test")
        sizes = [f"{len(getattr(self, name))} {name.replace('_', ' ')}" for name in parts]
        return f"Samples: {', '.join(sizes)}."


def recipe(name: str) -> ModuleType:
    """Returns the module of a recipe.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}; got {name!r}.")
    return importlib.import_module(f"mtlfast.recipes.{name}")


def check_weighting(name: str) -> str:
    """Returns the name of a weighting if there is one; GeometricMean is geometric-mean.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}; got {name!r}.")
    return name


def make_weighting(
    name: str, num_tasks: int, steps: int, epochs: int, *, seed: int = 0
) -> Weighting:
    """Returns a weighting by name, for a run.

    One that works in intervals gets the interval that renews its weights 25 times. That of
    dynamic-weight-average is an epoch, as in its paper, where that is shorter.

    Args:
        name: a key of ``WEIGHTINGS``.
        num_tasks: T.
        steps: optimizer steps of the whole run.
        epochs: epochs of the whole run.
        seed: that of the run, for random weights.
    """
    kind = WEIGHTINGS[check_weighting(name)]
    interval = max(1, steps // (RENEWALS + 1))
    if kind is Fixed:
        return Fixed([1.0] * num_tasks)
    if kind is ValidationLossTrend:
        return ValidationLossTrend(num_tasks, interval)
    if kind is DynamicWeightAverage:
        return DynamicWeightAverage(num_tasks, min(interval, max(1, steps // epochs)))
    if kind is RandomWeights:
        return RandomWeights(num_tasks, seed=seed)
    return kind(num_tasks)
