"""Pictures with a panel for each task, and above many of them one of all tasks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlfast.train.report.tables import short
from mtlfast.writing import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BLUE", "DARK", "GREEN", "MOST", "ORANGE", "band", "panels", "save"]

# Of Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, DARK = "#0072B2", "#D55E00", "#009E73", "#555555"
# Of how many tasks each has a panel.
MOST = 40
# A band has no more corners than a panel has pixels.
POINTS = 300
TITLE, LETTER = 9, 0.082  # in points, and the mean width of a letter in inches
# In inches: a panel, the wide one, the gaps between panels, and what the words around them need.
# matplotlib's own layout takes half of the time of a picture of 40 tasks.
PANEL, WIDE, GAP, BETWEEN = (1.95, 1.25), 2.0, 0.55, 0.62
LEFT, RIGHT, TOP, BOTTOM = 0.75, 0.2, 0.8, 1.0


def panels(
    path: Path,
    panel: Callable[[Axes, str], None],
    names: Sequence[str],
    *,
    whole: Callable[[Axes], None] | None = None,
    epochs: tuple[float, float],
    ylabel: str,
    title: str,
) -> None:
    """Draws a panel for each name and saves the picture.

    Args:
        path: of the picture.
        panel: draws that of a name.
        names: in the order of the panels, at most ``MOST``.
        whole: draws the panel of all tasks; None: there is none.
        epochs: ends of the x axis.
        ylabel: of the y axis.
        title: of the picture.
    """
    from matplotlib.figure import Figure  # half a second, for those who ask for pictures only

    columns = min(len(names), 4 if len(names) <= 12 else 6)
    lines = -(-len(names) // columns)
    wide, high = PANEL if columns > 2 else (6.4 / columns, 2.0)
    width = LEFT + columns * (wide + GAP) - GAP + RIGHT
    height = TOP + lines * (high + BETWEEN) - BETWEEN + BOTTOM
    height += WIDE + BETWEEN + 0.3 if whole else 0
    figure = Figure(figsize=(width, height))
    legend: dict[str, Any] = {}

    def place(left: float, top: float, size: tuple[float, float], name: str) -> Axes:
        # Axes that share theirs with 40 others ask all of them at each turn.
        box = (left / width, 1 - (top + size[1]) / height, size[0] / width, size[1] / height)
        axes = figure.add_axes(box)
        letters = int((size[0] - 0.5) / LETTER)  # the rest is for a figure to the right
        # With y matplotlib need not measure the ticks for a place above them.
        axes.set_title(short(name, letters), y=1, fontsize=TITLE, loc="left", parse_math=False)
        return axes

    def finish(axes: Axes) -> None:
        _dress(axes, epochs)
        handles, labels = axes.get_legend_handles_labels()
        legend.update(zip(labels, handles, strict=True))

    top = TOP
    if whole is not None:
        axes = place(LEFT, top, (width - LEFT - RIGHT, WIDE), "all tasks")
        whole(axes)
        finish(axes)
        axes.set(xlabel="epoch", ylabel=ylabel)
        top += WIDE + BETWEEN + 0.3
    for number, name in enumerate(names):
        line, column = divmod(number, columns)
        corner = LEFT + column * (wide + GAP), top + line * (high + BETWEEN)
        axes = place(*corner, (wide, high), name)
        panel(axes, name)
        finish(axes)
        lowest = number + columns >= len(names)
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel("epoch" if lowest else "")
        axes.set_ylabel(ylabel if column == 0 else "")
    figure.legend(
        legend.values(),
        legend,
        loc="lower left",
        bbox_to_anchor=(0, 0),
        ncols=len(legend) if columns > 2 else 2,
        frameon=False,
    )
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", fontsize=12)
    save(path, figure)


def save(path: Path, figure: Figure) -> None:
    """Writes a figure as PNG, whole or not at all."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A name in letters that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(content, dpi=150)
    write_atomic(path, content.getvalue())


def _dress(axes: Axes, epochs: tuple[float, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.set_xlim(*epochs)
    whole = MaxNLocator(5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    axes.xaxis.set_major_locator(whole)


def band(axes: Axes, x: Any, values: Any, color: str, label: str, *, steps: bool) -> None:
    """Draws how many curves spread: the middle half of them, their median, of steps all too.

    Args:
        axes: where.
        x: (R,) positions.
        values: (R, T), NaN where a curve has a gap.
        color: of all three.
        label: what the curves are.
        steps: whether a value holds until the next position.
    """
    x, values = _binned(x, values)
    known = np.isfinite(values).any(1)
    spread = np.full((5, len(x)), np.nan)
    if known.any():
        finite = np.where(np.isfinite(values[known]), values[known], np.nan)
        spread[:, known] = np.nanquantile(finite, (0, 0.25, 0.5, 0.75, 1), axis=1)
    low, first, middle, third, high = spread
    shade: dict[str, Any] = {"color": color, "linewidth": 0, "step": "post" if steps else None}
    if steps:
        axes.fill_between(x, low, high, alpha=0.13, label=f"{label}: range", **shade)
    axes.fill_between(x, first, third, alpha=0.25, label=f"{label}: middle half", **shade)
    style = "steps-post" if steps else "default"
    axes.plot(x, middle, color=color, linewidth=1, drawstyle=style, label=f"{label}: median")


def _binned(x: Any, values: Any) -> tuple[Any, Any]:
    """Returns at most ``POINTS`` positions, the first of as many equal groups of neighbours."""
    if len(x) <= POINTS:
        return x, values
    return tuple(part[np.linspace(0, len(x) - 1, POINTS).astype(int)] for part in (x, values))
