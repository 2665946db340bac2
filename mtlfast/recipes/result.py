"""The row that a run ends with, for the README's table of systems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mtlfast.recipes.registry import RECIPES

__all__ = ["row"]

# What every recipe is built with.
COMMON = ("data", "epochs", "weighting", "variant", "seed", "output")


def row(module: ModuleType, chosen: dict[str, Any], report: Mapping[str, Any]) -> str:
    """Returns a run's row for the README's table of systems.

    What was reported is left out where that was on other data.

    Args:
        module: the recipe.
        chosen: its options.
        report: the run's; of it ``tasks``, and ``figures``, what was measured, by name.

    Example:
        >>> from mtlfast.recipes import recipe
        >>> chosen = {"variant": "joint", "weighting": "fixed", "data": None, "seed": 0}
        >>> report = {"tasks": {"digit": {}}, "figures": {"accuracy": 0.5}}
        >>> print(row(recipe("digits"), chosen, report).splitlines()[0])
        | system | setting | data | reported | measured | seed |
    """
    system = RECIPES[module.__name__.rpartition(".")[2]]
    data = "its own" if chosen["data"] is None else Path(chosen["data"]).name
    figures = report["figures"].items()
    measured = ", ".join(f"{name} {_shown(value)}" for name, value in figures)
    claimed = getattr(module, "claimed", None)
    reported = module.CLAIM if claimed is None or claimed(list(report["tasks"]), **chosen) else "-"
    own = {k: v for k, v in chosen.items() if k not in COMMON and v is not None}
    named = {"weighting": chosen["weighting"], **own}
    setting = ", ".join([chosen["variant"], *(f"{name} {value}" for name, value in named.items())])
    cells = (system, setting, data, reported, measured, chosen["seed"])
    head = "| system | setting | data | reported | measured | seed |\n|---|---|---|---|---|--:|"
    escaped = (" ".join(str(cell).split()).replace("|", r"\|") for cell in cells)
    return f"{head}\n| {' | '.join(escaped)} |"


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}" if isinstance(figure, float) else str(figure)
