"""The pictures of a run: weights.png and losses.png, over the epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlfast.train.report.history import with_renewals
from mtlfast.train.report.panels import BLUE, DARK, GREEN, MOST, ORANGE, band, panels, save
from mtlfast.train.report.tables import short
from mtlfast.train.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "draw_run"]

GREY, LIGHT = "#888888", "#d4d4d4"
# Of how many tasks each panel shows all curves, and not how they spread.
FEW = 12
Rows = list[dict[str, Any]]


def draw_run(output: Path, run: Run) -> None:
    """Draws the pictures of a run into ``output``."""
    best = None if run.best is None else run.best.epoch
    draw(output, run.names, run.history, run.renewals, best=best)


def draw(
    output: Path,
    names: Sequence[str],
    history: Rows,
    renewals: Iterable[tuple[int, Sequence[float]]] = (),
    *,
    best: int | None = None,
) -> None:
    """Draws weights.png and losses.png into ``output``; without history, nothing.

    Each task has a panel; of more than 40 tasks those 40 whose curves change most, below one of all
    tasks. Both pictures show where a task's training stopped or started again, by a stage or a stop
    rule. Where no weight has changed, weights.png tells what they are.

    Args:
        output: the directory.
        names: the tasks, in the order of the panels.
        history: rows per epoch and task, as ``history.rows`` makes them.
        renewals: steps, and the weights from then on, one for each name.
        best: the epoch to mark as the best in losses.png.
    """
    if not history:
        return
    # Those of an earlier version have neither.
    history = [{"step": row["epoch"], "active": True} | row for row in history]
    of_task: dict[str, Rows] = {name: [] for name in names}
    for row in history:
        of_task[row["task"]].append(row)
    curves: dict[str, Rows] = {name: [] for name in names}
    for row in with_renewals(history, renewals):
        curves[row["task"]].append(row)
    if all(row["weight"] == rows[0]["weight"] for rows in curves.values() for row in rows):
        _constant_weights(output / "weights.png", of_task)
    else:
        _weights(output / "weights.png", of_task, curves)
    _losses(output / "losses.png", of_task, best)


def _weights(path: Path, of_task: Mapping[str, Rows], curves: Mapping[str, Rows]) -> None:
    """Draws weights as steps: each holds until the next row, and only while its task is trained."""
    names, last = list(curves), next(iter(of_task.values()))[-1]
    weights, active = (
        np.array([[row[key] for row in rows] for rows in curves.values()]).T
        for key in ("weight", "active")
    )
    steps = [row["step"] for row in next(iter(curves.values()))]
    x = np.array(steps) * last["epoch"] / last["step"]
    held = np.where(active[1:], weights[:-1], math.nan)
    ends, lines = np.repeat(x, 2)[1:-1], np.repeat(held, 2, 0)
    # One line with gaps in it: a line for each task in each panel takes seconds.
    gap = np.full((1, len(names)), math.nan)
    others = np.tile(np.append(ends, math.nan), len(names)), np.append(lines, gap, 0).T.ravel()
    top = (1.25 if (active != active[0]).any() else 1.1) * max(_most(held), 1e-30)

    def whole(axes: Axes) -> None:
        band(axes, x, np.append(held, held[-1:], 0), GREY, "all tasks", steps=True)

    def panel(axes: Axes, name: str) -> None:
        if len(names) > FEW:
            whole(axes)
        elif len(names) > 1:
            axes.plot(*others, color=LIGHT, linewidth=0.8, label="the other tasks")
        own = lines[:, names.index(name)]
        axes.plot(ends, own, color=BLUE, label="this task", linewidth=1.6)
        used = [row["weight"] for row in of_task[name] if row["active"]]
        figure = "-" if not used else f"{used[-1]:.{3 if used[-1] >= 0.1 else 2}g}"
        axes.set_title(figure, y=1, fontsize=9, loc="right", color=BLUE)
        axes.set_ylim(0, top)
        _changes(axes, of_task[name])

    change = {name: _most(own) + _most(-own) for name, own in zip(names, held.T, strict=True)}
    title = "Weight of each task's loss in the total (blue figure: when its training ended)"
    _draw(path, panel, whole, change, title, epochs=(x[0], x[-1]), ylabel="weight")


def _constant_weights(path: Path, of_task: Mapping[str, Rows]) -> None:
    """Says what the weights were that never changed."""
    from matplotlib.figure import Figure

    weights = {name: rows[0]["weight"] for name, rows in of_task.items()}
    stopped = [n for n, rows in of_task.items() if not all(row["active"] for row in rows)]
    lines = ["No weight changed in this run."]
    if len(set(weights.values())) == 1:
        every = "the one task" if len(weights) == 1 else f"each of the {len(weights)} tasks"
        lines = [f"The weight of {every} was {next(iter(weights.values())):.4g} throughout."]
        weights = {}
    elif len(weights) > MOST:
        lines += [f"The {MOST} largest of {len(weights)}; all are in history.csv."]
    if stopped:
        more = f" and {len(stopped) - 3} more" if len(stopped) > 3 else ""
        listed = ", ".join(short(name, 22) for name in stopped[:3])
        lines += [f"Not always trained, see losses.png: {listed}{more}."]
    shown = sorted(weights, key=lambda name: -weights[name])[:MOST]
    shown = [name for name in weights if name in set(shown)]
    above = 0.6 + 0.25 * len(lines)
    height = above + 0.22 * len(shown) + (0.4 if shown else 0)
    figure = Figure(figsize=(8, max(height, 1.1)))
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.25 / height, "\n".join(lines), va="top", fontsize=12, parse_math=False)
    if shown:
        bottom, size = 0.4 / height, 0.22 * len(shown) / height
        axes = figure.add_axes((0.35, bottom, 0.6, size))
        bars = axes.barh(range(len(shown)), [weights[name] for name in shown], color=BLUE)
        axes.bar_label(bars, [f"{weights[name]:.3g}" for name in shown], padding=3, fontsize=8)
        labels = [short(name, 32) for name in shown]
        axes.set_yticks(range(len(shown)), labels, fontsize=8, parse_math=False)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
        axes.margins(x=0.12)
    save(path, figure)


def _losses(path: Path, of_task: Mapping[str, Rows], best: int | None) -> None:
    """Draws the losses of training and validation at the end of each epoch."""
    x = np.array([row["epoch"] for row in next(iter(of_task.values()))])
    lines = [("train_loss", BLUE, "training"), ("validation_loss", ORANGE, "validation")]
    lines = [line for line in lines if any(line[0] in rows[0] for rows in of_task.values())]
    losses = {
        name: np.array([[row.get(key) for row in rows] for key, *_ in lines], float)
        for name, rows in of_task.items()
    }

    def scaled(axes: Axes, values: Any) -> None:
        finite = values[np.isfinite(values)]
        if finite.size:
            _scale(axes, finite.min(), finite.max())
        else:
            axes.text(0.5, 0.5, "no labels", transform=axes.transAxes, ha="center", color=DARK)
            axes.set_yticks([])
        if best is not None:
            axes.axvline(best, color=GREEN, linewidth=1, label=f"best epoch: {best}")

    def whole(axes: Axes) -> None:
        for part, (_, color, label) in zip(np.stack([*losses.values()], 2), lines, strict=True):
            band(axes, x, part, color, label, steps=False)
        scaled(axes, axes.dataLim.intervaly)  # of what is drawn, for its ticks

    def panel(axes: Axes, name: str) -> None:
        for values, (_, color, label) in zip(losses[name], lines, strict=True):
            axes.plot(x, values, color=color, label=label, linewidth=1.6)
            # A dot where a value has no neighbour to draw a line to.
            gaps = np.isnan(np.concatenate(([math.nan], values, [math.nan])))
            alone = gaps[:-2] & gaps[2:]
            if alone.any():
                axes.plot(x[alone], values[alone], "o", color=color, ms=4)
        scaled(axes, losses[name])
        if _changes(axes, of_task[name]):
            low, high = axes.get_ylim()
            log = axes.get_yscale() == "log"
            axes.set_ylim(low, high * (high / low) ** 0.25 if log else high + (high - low) / 4)

    change = {name: _ratio(parts[0]) for name, parts in losses.items()}
    title = "Mean loss of each task over its labelled samples (log scale)"
    ends = x[0] - 0.5, x[-1] + 0.5
    _draw(path, panel, whole, change, title, epochs=ends, ylabel="loss")


def _draw(
    path: Path,
    panel: Callable[[Axes, str], None],
    whole: Callable[[Axes], None],
    change: Mapping[str, float],
    title: str,
    **options: Any,
) -> None:
    """Draws the panels of all tasks, or of the ``MOST`` that changed most and one of all."""
    names, over = list(change), None
    if len(names) > MOST:
        names, over = sorted(names, key=lambda name: -change[name])[:MOST], whole
        what = options["ylabel"]
        title += (
            f"\nAll {len(change)} tasks, and the {MOST} whose {what} changed most, in that order"
        )
    panels(path, panel, names, whole=over, title=title, **options)


def _changes(axes: Axes, rows: Rows) -> bool:
    """Marks the ends of epochs after which the task's training stops or starts, if there are any.

    The words are in the upper sixth of the panel.
    """
    found = False
    for before, after in itertools.pairwise(rows):
        going = after["active"]
        if before["active"] == going:
            continue
        epoch, found = before["epoch"], True
        axes.axvline(epoch, color=DARK, linewidth=1, linestyle="--")
        first, last = rows[0]["epoch"], rows[-1]["epoch"]
        left = epoch - first > (last - first) / 2
        axes.annotate(
            f"{'starts' if going else 'stops'} after {epoch}",
            (epoch, 0.88),
            (-3 if left else 3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
            color=DARK,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5},
        )
    return found


def _scale(axes: Axes, least: float, most: float) -> None:
    """Gives the y axis a log scale with plain numbers; losses of 0 and below need a linear one."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if least <= 0:
        axes.set_title("linear", y=1, fontsize=8, loc="right", color=DARK)
        return
    axes.set_yscale("log")
    # Powers of ten are too few to read from where the values lie close together.
    ratio = most / least
    if ratio < 4:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 50 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:.3g}")


def _most(values: Any) -> float:
    """Returns the largest finite number, minus infinity where there is none."""
    return float(max(values[np.isfinite(values)], default=-math.inf))


def _ratio(values: Any) -> float:
    """Returns how often the least goes into the largest; at and below 0 a fall has no end."""
    most, least = _most(values), -_most(-values)
    if not most > least:
        return 1.0 if most == least else 0.0
    return most / least if least > 0 else math.inf
