"""Recipes and weightings by name: each is there once, and made for the length of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlfast import recipes, weighting
from mtlfast.recipes import RECIPES, WEIGHTINGS, make_weighting, recipe

FOLDER = Path(recipes.__file__).parent
AROUND = {"__init__", "experiment", "registry", "result"}


def test_every_file_is_a_recipe_with_a_name_and_a_line():
    assert {path.stem for path in FOLDER.glob("*.py")} - AROUND == RECIPES.keys()
    assert list(RECIPES) == sorted(RECIPES)
    assert all(line and not line.endswith(".") for line in RECIPES.values())
    assert len(set(RECIPES.values())) == len(RECIPES)


def test_every_weighting_has_a_name_made_from_that_of_its_class():
    known = {kind.__name__: name for name, kind in WEIGHTINGS.items()}
    assert known.keys() == set(weighting.__all__) - {"Weighting"}
    assert all(name.replace("-", "") == kind.lower() for kind, name in known.items())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_what_help_and_runs_ask_of_it(name):
    module = recipe(name)
    assert callable(module.build) and module.__doc__ and module.CLAIM and module.EPOCHS > 0
    assert module.WEIGHTING in WEIGHTINGS and module.VARIANTS
    assert module.DATA is None or isinstance(module.DATA, str)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_is_made_for_the_length_and_the_seed_of_a_run(name):
    made = make_weighting(name, 3, steps=520, epochs=40, seed=5)
    assert type(made) is WEIGHTINGS[name] and len(made.weights) == 3
    intervals = {"validation-loss-trend": 20, "dynamic-weight-average": 13}
    assert getattr(made, "interval", None) == intervals.get(name)
    assert int(getattr(made, "seed", 5)) == 5
