"""Recipes: whole multi-task systems, one file each, written with the public API only.

``RECIPES`` names them. A recipe's module has

* ``CLAIM``, what its source reports; with figures in it also ``claimed(tasks, **options)``: whether
  a run's data is what they were reported on;
* ``DATA``, what ``--data`` must name, None where it brings its own;
* its defaults ``EPOCHS`` and ``WEIGHTING``;
* ``VARIANTS``, by name what each is, the system itself first;
* ``build(**options)``, which returns an ``Experiment``; and, where it takes options beside those of
  every recipe, ``add_options(parser)``.

``build`` takes, of every recipe, by keyword:

* ``data``: the path of the data, None where the recipe brings its own;
* ``epochs``: of the whole run;
* ``seed``: the trainer's; it also draws the first weights and all else that is drawn for training;
* ``weighting``: a name in ``WEIGHTINGS``;
* ``variant``: a name in the recipe's ``VARIANTS``;
* and whatever else ``mtlfast.train.Trainer`` takes, such as ``output``.
"""

from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.registry import (
    RECIPES,
    WEIGHTINGS,
    check_variant,
    check_weighting,
    explain,
    make_weighting,
    recipe,
)
from mtlfast.recipes.result import row

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
