"""Which recipes and weightings there are, by name, and what each is in a line.

Help texts read this, so it imports neither a recipe nor the trainer.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

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
    "check_variant",
    "check_weighting",
    "explain",
    "listed",
    "make_weighting",
    "recipe",
]

# By the name of its module, the system and where it is from.
RECIPES = {
    "attributes": "Adaptively weighted person attributes (ACM MM 2017)",
    "auxheads": "Auxiliary heads (GoogLeNet)",
    "deepid2": "DeepID2 (NIPS 2014)",
    "digits": "Digits and their properties",
    "driving": "Driving example: '?' labels",
    "jointvsseparate": "One network or many",
    "labelstructures": "Label structures (Zhang et al.)",
    "rpn": "Faster R-CNN: RPN",
    "slicelabels": "Caffe's sliced labels",
    "tcdcn": "TCDCN (ECCV 2014)",
    "textcnn": "Text-Attentional CNN",
    "transfer": "Transfer to a new task",
}
# Each has `for_run`; the first line of its docstring is its description.
WEIGHTINGS: dict[str, Any] = {
    "fixed": Fixed,
    "validation-loss-trend": ValidationLossTrend,
    "dynamic-weight-average": DynamicWeightAverage,
    "uncertainty": Uncertainty,
    "random-weights": RandomWeights,
    "geometric-mean": GeometricMean,
}


def recipe(name: str) -> ModuleType:
    """Returns the module of a recipe.

    Raises:
        ValueError: for an unknown name, with the known ones.

    Example:
        >>> recipe("digits").VARIANTS.keys()
        dict_keys(['joint'])
    """
    return importlib.import_module(f"mtlfast.recipes.{_known('recipe', name, RECIPES)}")


def listed() -> str:
    """Returns the recipes and the weightings, a line each."""
    weightings = {
        name: (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")
        for name, kind in WEIGHTINGS.items()
    }
    return "\n\n".join(
        "\n".join([f"{title}:", *(f"  {name:<24}{what}" for name, what in known.items())])
        for title, known in (("recipes", RECIPES), ("weightings", weightings))
    )


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


def check_variant(module: ModuleType, name: str | None) -> str:
    """Returns the name of a recipe's variant if there is one; by default the first.

    Raises:
        ValueError: for an unknown name, with the known ones.

    Example:
        >>> check_variant(recipe("digits"), None)
        'joint'
    """
    first = next(iter(module.VARIANTS))
    return _known("variant", first if name is None else name, module.VARIANTS)


def check_weighting(name: str) -> str:
    """Returns the name of a weighting if there is one; GeometricMean is geometric-mean.

    Raises:
        ValueError: for an unknown name, with the known ones.

    Example:
        >>> check_weighting("geometric-mean")
        'geometric-mean'
    """
    return _known("weighting", name, WEIGHTINGS)


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
    return WEIGHTINGS[check_weighting(name)].for_run(num_tasks, steps, epochs, seed)


def _known(what: str, name: str, known: dict[str, Any]) -> str:
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}.")
    return name
