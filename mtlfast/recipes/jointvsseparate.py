"""One network for T tasks, or T networks for one task each.

The same network, of the same width and trained by the same rule (that of the recipe ``driving``),
learns all tasks of a table together, and then each task alone. The literature reports that joint
training costs a T-th and loses only where the network is too small for all tasks: ``--width``.
MCNN on CelebA reaches accuracy 91.26 jointly (< 16 M parameters), 91.06 separately (64 M).

The comparison task by task is printed and written to comparison.csv.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from mtlfast.recipes import driving
from mtlfast.recipes.experiment import Experiment
from mtlfast.train import Samples, Trainer
from mtlfast.writing import write_atomic

__all__ = ["add_options", "build", "compare", "fit_alone"]

CLAIM = "joint training is as good as separate, with a fraction of the parameters"
DATA = driving.DATA
VARIANTS = {
    "both": "all tasks together, then each alone",
    "joint": "all tasks together, and no more",
}
EPOCHS = driving.EPOCHS
WEIGHTING = "fixed"
add_options = driving.add_options


def build(
    *,
    data: Path,
    epochs: int,
    seed: int,
    metric: str = "auroc",
    width: int = driving.WIDTH,
    variant: str = "both",
    **options: Any,
) -> Experiment:
    """Returns the experiment: the joint network; the others are trained when it is measured.

    The figures are from validation data or, where a given split has none, from test data.

    Args:
        data, epochs, seed, variant: as for every recipe; each network has as many epochs.
        metric: a name as ``Task`` takes it.
        width: of the hidden layer of every network.
        options: those of ``driving.build``.
    """
    joint = driving.build(
        data=data, epochs=epochs, seed=seed, metric=metric, width=width, **options
    )
    if variant == "joint":
        return joint
    run, train = joint.trainer, joint.train
    scored = joint.test if joint.validation is None else joint.validation

    def measure() -> dict[str, float]:
        alone = {}
        for column, name in enumerate(run.names):
            single = driving.trainer([name], only(train, column), metric, width, seed)
            alone[name] = fit_alone(single, only(train, column), only(scored, column), epochs)
        together = run.evaluate(scored)
        return compare(run, {n: s["metrics"][metric] for n, s in together.items()}, alone, metric)

    return dataclasses.replace(joint, measure=measure)


def only(data: Samples, column: int) -> Samples:
    """Returns a data set with the labels of one task."""
    labels: Tensor = data.targets["labels"]
    return Samples(data.inputs, {"labels": labels[:, column : column + 1]})


def fit_alone(run: Trainer, train: Samples, scored: Samples, epochs: int) -> dict[str, Any]:
    """Trains a network for one task; returns its score, seconds and number of parameters."""
    run.fit(train, epochs, driving.BATCH_SIZE)
    (score,) = run.evaluate(scored).values()
    (value,) = score["metrics"].values()
    return {"score": value, "seconds": run.run.seconds, "parameters": size(run.model)}


def compare(
    run: Trainer, together: dict[str, Any], alone: dict[str, dict[str, Any]], metric: str
) -> dict[str, float]:
    """Prints and writes the comparison by task, and returns what it comes to."""
    pairs = {name: (together[name], single["score"]) for name, single in alone.items()}
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    rows = [(name, joint, single, joint - single) for name, (joint, single) in known.items()]
    if not rows:
        raise ValueError(f"{metric} must be defined for one task at least; it is for none.")
    run.accelerator.print(f"\n{metric}: joint, separate, difference")
    for name, *numbers in rows:
        run.accelerator.print(name.ljust(20), *(f"{number:7.3f}" for number in numbers))
    if run.output is not None and run.accelerator.is_main_process:
        text = io.StringIO()
        csv.writer(text).writerows([("task", "joint", "separate", "difference"), *rows])
        write_atomic(run.output / "comparison.csv", text.getvalue().encode())
    return {
        f"joint {metric}": fmean(row[1] for row in rows),
        f"separate {metric}": fmean(row[2] for row in rows),
        "share of tasks better jointly": fmean(row[3] > 0 for row in rows),
        "joint seconds": run.run.seconds,
        "separate seconds": sum(single["seconds"] for single in alone.values()),
        "joint parameters / M": size(run.model) / 1e6,
        "separate parameters / M": sum(single["parameters"] for single in alone.values()) / 1e6,
    }


def size(model: nn.Module) -> int:
    """Returns the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
