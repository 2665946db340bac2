"""Recipes: whole multi-task systems, one file each, written with the public API only.

A recipe module has

* ``SYSTEM``, its name and source, and ``CLAIM``, what the source reports; with figures in it also
  ``claimed(tasks, **options)``: whether a run's data is what they were reported on;
* ``DATA``, what ``--data`` must name, None where it brings its own;
* its defaults ``EPOCHS`` and ``WEIGHTING``;
* ``VARIANTS``, by name what each is, the system itself first;
* ``build(**options)``, which returns an ``Experiment``; and, where it takes options beside those of
  every recipe, ``add_options(parser)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mtlfast.train import Trainer
from mtlfast.weighting import (
    DynamicWeightAverage,
    Fixed,
    GeometricMean,
    RandomWeights,
    Uncertainty,
    ValidationLossTrend,
    Weighting,
)

__all__ = [
    "RECIPES",
    "WEIGHTINGS",
    "Experiment",
    "check_variant",
    "check_weighting",
    "explain",
    "make_weighting",
    "recipe",
    "row",
]

RECIPES = (
    "attributes",
    "auxheads",
    "deepid2",
    "digits",
    "driving",
    "jointvsseparate",
    "labelstructures",
    "rpn",
    "slicelabels",
    "tcdcn",
    "textcnn",
    "transfer",
)
WEIGHTINGS: dict[str, Any] = {
    "fixed": Fixed,
    "validation-loss-trend": ValidationLossTrend,
    "dynamic-weight-average": DynamicWeightAverage,
    "uncertainty": Uncertainty,
    "random-weights": RandomWeights,
    "geometric-mean": GeometricMean,
}
# What every recipe is built with.
COMMON = ("data", "epochs", "weighting", "variant", "seed", "output")
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
        measure: returns the system's own figures after training, by name, on every process; None:
            the means over tasks of their metrics on the test data.
    """

    trainer: Trainer
    train: Any
    weight_data: Any
    validation: Any
    test: Any
    batch_size: int
    measure: Callable[[], Mapping[str, float | None]] | None = None

    def describe(self) -> str:
        """Returns the size of each part of the data, in words."""
        parts = ("train", "weight_data", "validation", "test")
        given = [(name.replace("_", " "), getattr(self, name)) for name in parts]
        sizes = [f"{len(data)} {name}" for name, data in given if data is not None]
        return f"Samples: {', '.join(sizes)}."


def recipe(name: str) -> ModuleType:
    """Returns the module of a recipe.

    Raises:
        ValueError: for an unknown name, with the known ones.

    Example:
        >>> recipe("digits").VARIANTS.keys()
        dict_keys(['joint'])
    """
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}; got {name!r}.")
    return importlib.import_module(f"mtlfast.recipes.{name}")


def explain(module: ModuleType) -> str:
    """Returns what a recipe is, its variants, data and defaults, for its help.

    Example:
        >>> explain(recipe("digits")).splitlines()[-1]
        'defaults: --epochs 40 --weighting validation-loss-trend'
    """
    variants = "\n".join(f"  {name}: {what}" for name, what in module.VARIANTS.items())
    defaults = f"--epochs {module.EPOCHS} --weighting {module.WEIGHTING}"
    data = module.DATA or "its own; needs no --data"
    return f"{module.__doc__}\nvariants:\n{variants}\n\ndata: {data}\ndefaults: {defaults}"


def row(module: ModuleType, chosen: dict[str, Any], report: Mapping[str, Any]) -> str:
    """Returns a run's row for the README's table of systems.

    What was reported is left out where that was on other data.

    Args:
        module: the recipe.
        chosen: its options.
        report: the run's; of it ``tasks``, and ``figures``, what was measured, by name.

    Example:
        >>> chosen = {"variant": "joint", "weighting": "fixed", "data": None, "seed": 0}
        >>> report = {"tasks": {"digit": {}}, "figures": {"accuracy": 0.5}}
        >>> print(row(recipe("digits"), chosen, report).splitlines()[0])
        | system | setting | data | reported | measured | seed |
    """
    data = "its own" if chosen["data"] is None else Path(chosen["data"]).name
    figures = report["figures"].items()
    measured = ", ".join(f"{name} {_shown(value)}" for name, value in figures)
    claimed = getattr(module, "claimed", None)
    reported = module.CLAIM if claimed is None or claimed(list(report["tasks"]), **chosen) else "-"
    own = {k: v for k, v in chosen.items() if k not in COMMON and v is not None}
    named = {"weighting": chosen["weighting"], **own}
    setting = ", ".join([chosen["variant"], *(f"{name} {value}" for name, value in named.items())])
    cells = (module.SYSTEM, setting, data, reported, measured, chosen["seed"])
    head = "| system | setting | data | reported | measured | seed |\n|---|---|---|---|---|--:|"
    escaped = (" ".join(str(cell).split()).replace("|", r"\|") for cell in cells)
    return f"{head}\n| {' | '.join(escaped)} |"


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}" if isinstance(figure, float) else str(figure)


def check_variant(module: ModuleType, name: str | None) -> str:
    """Returns the name of a recipe's variant if there is one; by default the first.

    Raises:
        ValueError: for an unknown name, with the known ones.

    Example:
        >>> check_variant(recipe("digits"), None)
        'joint'
    """
    known = list(module.VARIANTS)
    if name is not None and name not in known:
        raise ValueError(f"variant must be one of {', '.join(known)}; got {name!r}.")
    return name or known[0]


def check_weighting(name: str) -> str:
    """Returns the name of a weighting if there is one; GeometricMean is geometric-mean.

    Raises:
        ValueError: for an unknown name, with the known ones.

    Example:
        >>> check_weighting("geometric-mean")
        'geometric-mean'
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

    Example:
        >>> make_weighting("validation-loss-trend", num_tasks=3, steps=520, epochs=4)
        ValidationLossTrend(num_tasks=3, interval=20, momentum=0.0, min_weight=0.0, max_weight=None)
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
