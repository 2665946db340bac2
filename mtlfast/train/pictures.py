"""The pictures of a run: weights.png and losses.png, a panel for each task, over the epochs."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlfast.writing import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

# Of Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
LIGHT, DARK = "#d4d4d4", "#555555"
Rows = list[dict[str, Any]]


def draw(output: Path, names: Sequence[str], history: Rows, *, best: int | None = None) -> None:
    """Draws weights.png and losses.png into ``output``; without history, nothing.

    Both show where a task's training stopped or started again, by a stage or a stop rule.

    Args:
        output: the directory.
        names: the tasks, in the order of the panels.
        history: rows per epoch and task, as ``report.rows`` makes them.
        best: the epoch to mark as the best in losses.png.
    """
    of_task = {name: [row for row in history if row["task"] == name] for name in names}
    if not history:
        return
    # One line with gaps in it: a line for each task in each panel takes seconds for 40 tasks.
    every_epoch, every_weight = list[float](), list[float]()
    for rows in of_task.values():
        at, values = _series(rows, "weight")
        every_epoch += [*at, math.nan]
        every_weight += [*values, math.nan]

    def weight(axes: Axes, name: str) -> None:
        if len(names) > 1:
            axes.plot(
                every_epoch, every_weight, color=LIGHT, linewidth=0.7, label="the other tasks"
            )
        _line(axes, of_task[name], "weight", BLUE, "this task")
        # A weight is in use only while the task is trained.
        used = [row["weight"] for row in of_task[name] if row.get("active", True)]
        axes.set_title(f"{used[-1]:.3g}" if used else "-", fontsize=9, loc="right", color=BLUE)
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        _changes(axes, of_task[name], 0.04)

    def loss(axes: Axes, name: str) -> None:
        rows = of_task[name]
        _line(axes, rows, "train_loss", BLUE, "training")
        if any("validation_loss" in row for row in history):
            _line(axes, rows, "validation_loss", ORANGE, "validation")
        keys = ("train_loss", "validation_loss")
        values = [value for key in keys for value in _series(rows, key)[1] if math.isfinite(value)]
        if values:
            _scale(axes, values)
        else:
            axes.text(0.5, 0.5, "no labels", transform=axes.transAxes, ha="center", color=DARK)
        if best is not None:
            axes.axvline(best, color=GREEN, linewidth=1, label=f"best epoch: {best}")
        _changes(axes, rows, 0.9)

    epochs = [row["epoch"] for row in history]
    options: dict[str, Any] = {"names": names, "epochs": (min(epochs), max(epochs))}
    title = "Weight of each task's loss in the total (blue figure: the last one in use)"
    _panels(output / "weights.png", weight, **options, ylabel="weight", title=title, sharey=True)
    title = "Mean loss of each task over its labelled samples (log scale)"
    _panels(output / "losses.png", loss, **options, ylabel="loss", title=title, sharey=False)


def _series(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    """Returns epochs and values; NaN, a gap, where there is none or the task was not trained."""

    def value(row: dict[str, Any]) -> float:
        unused = key == "weight" and not row.get("active", True)
        return math.nan if unused or row.get(key) is None else row[key]

    return [row["epoch"] for row in rows], [value(row) for row in rows]


def _line(axes: Axes, rows: Rows, key: str, color: str, label: str) -> None:
    """Draws a line, and a dot where a value has no neighbour to draw a line to."""
    epochs, values = _series(rows, key)
    gaps = [math.isnan(value) for value in [math.nan, *values, math.nan]]
    alone = [i for i in range(len(values)) if gaps[i] and gaps[i + 2]]
    axes.plot(epochs, values, color=color, label=label, linewidth=1.6)
    axes.plot([epochs[i] for i in alone], [values[i] for i in alone], "o", color=color, ms=4)


def _changes(axes: Axes, rows: Rows, height: float) -> None:
    """Marks the ends of epochs after which the task's training stops or starts.

    ``height``, of 1, is where the words are.
    """
    for before, after in itertools.pairwise(rows):
        was, going = before.get("active", True), after.get("active", True)
        if was == going:
            continue
        epoch = before["epoch"]
        axes.axvline(epoch, color=DARK, linewidth=1, linestyle="--")
        first, last = rows[0]["epoch"], rows[-1]["epoch"]
        left = epoch - first > (last - first) / 2
        axes.annotate(
            f"{'starts' if going else 'stops'} after {epoch}",
            (epoch, height),
            (-3 if left else 3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
            color=DARK,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5},
        )


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Gives the y axis a log scale with plain numbers; losses of 0 and below need a linear one."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if min(values) <= 0:
        axes.set_title("linear scale", fontsize=8, loc="right", color=DARK)
        return
    axes.set_yscale("log")
    # Powers of ten are too few to read from where the values lie close together.
    ratio = max(values) / min(values)
    if ratio < 4:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 50 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:.3g}")


def _panels(
    path: Path,
    panel: Any,
    *,
    names: Sequence[str],
    epochs: tuple[int, int],
    ylabel: str,
    title: str,
    sharey: bool,
) -> None:
    """Draws one panel for each name with ``panel(axes, name)`` and saves the picture."""
    from matplotlib.figure import Figure  # half a second, for those who ask for pictures only
    from matplotlib.ticker import MaxNLocator

    columns = min(len(names), 4 if len(names) <= 12 else 6)
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(max(8, 2.6 * columns), 1.9 * lines + 1.3), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=sharey, squeeze=False)
    legend: dict[str, Any] = {}
    for number, axes in enumerate(grid.flat):
        if number >= len(names):
            axes.remove()
            continue
        panel(axes, names[number])
        name = names[number] if len(names[number]) <= 26 else f"{names[number][:25]}…"
        axes.set_title(name, fontsize=10, loc="left", parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, labelbottom=True)
        axes.set_xlim(epochs[0] - 0.5, epochs[1] + 0.5)
        whole = MaxNLocator(5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        axes.xaxis.set_major_locator(whole)
        if number // columns == lines - 1:
            axes.set_xlabel("epoch")
        if number % columns == 0:
            axes.set_ylabel(ylabel)
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(
        legend.values(), legend, loc="outside lower left", ncols=len(legend), frameon=False
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    content = io.BytesIO()
    figure.savefig(content, dpi=150)
    write_atomic(path, content.getvalue())
