"""Pictures with a panel for each task, and above many of them one of all tasks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
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
    panel: Callable[..., None],
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
    from matplotlib.ticker import MaxNLocator

    columns = min(len(names), 4 if len(names) <= 12 else 6)
    lines = -(-len(names) // columns)
    wide, high = PANEL if columns > 2 else (6.4 / columns, 2.0)
    above = TOP + (WIDE + BETWEEN + 0.3 if whole else 0)
    width = LEFT + columns * (wide + GAP) - GAP + RIGHT
    height = above + lines * (high + BETWEEN) - BETWEEN + BOTTOM
    figure = Figure(figsize=(width, height))
    legend: dict[str, Any] = {}

    def grid(lines: int, columns: int, top: float, bottom: float) -> Any:
        gaps = {"wspace": GAP / wide, "hspace": BETWEEN / high}
        sides = {"left": LEFT / width, "right": 1 - RIGHT / width}
        ends = {"top": 1 - top / height, "bottom": 1 - bottom / height}
        return figure.add_gridspec(lines, columns, **gaps, **sides, **ends)

    def drawn(place: Any, room: float, name: str, draw: Callable[[Axes], None]) -> Axes:
        # Axes that share theirs with 40 others ask all of them at each turn.
        axes = figure.add_subplot(place)
        letters = int((room - 0.5) / LETTER)  # the rest is for a figure to the right
        # With y matplotlib need not measure the ticks for a place above them.
        axes.set_title(short(name, letters), y=1, fontsize=TITLE, loc="left", parse_math=False)
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.set_xlim(*epochs)
        axes.xaxis.set_major_locator(
            MaxNLocator(5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        )
        handles, labels = axes.get_legend_handles_labels()
        legend.update(zip(labels, handles, strict=True))
        return axes

    if whole is not None:
        place, room = grid(1, 1, TOP, TOP + WIDE)[0], width - LEFT - RIGHT
        drawn(place, room, "all tasks", whole).set(xlabel="epoch", ylabel=ylabel)
    places = grid(lines, columns, above, height - BOTTOM)
    for number, name in enumerate(names):
        axes = drawn(places[number], wide, name, partial(panel, name=name))
        lowest = number + columns >= len(names)
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel("epoch" if lowest else "")
        axes.set_ylabel("" if number % columns else ylabel)
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
    if len(x) > POINTS:  # the first of as many equal groups of neighbours
        kept = np.linspace(0, len(x) - 1, POINTS).astype(int)
        x, values = x[kept], values[kept]
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
