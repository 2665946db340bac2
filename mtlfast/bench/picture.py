"""bench.png: how near our calls come to the memory's limit, and how long the rivals take."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mtlfast.bench.case import PASSES
from mtlfast.bench.table import ratio
from mtlfast.writing import write_atomic

__all__ = ["draw"]

# Of Okabe and Ito's colours, which colour-blind readers can tell apart.
FAMILIES = {"pointwise": "#0072B2", "rows": "#009E73", "inbatch": "#CC79A7"}
WORDS = {"pointwise": "pointwise losses", "rows": "losses on rows", "inbatch": "in-batch losses"}
KINDS = {
    "plain PyTorch": "#E69F00",
    "torch.compile of it": "#56B4E9",
    "another library": "#999999",
}
MOST_BARS = 40
DARK = "#444444"
Record = Mapping[str, Any]


def draw(content: Mapping[str, Any], path: Path) -> bool:
    """Draws our share of the copy bandwidth and the rivals' ratios; returns whether it could."""
    from matplotlib.figure import Figure

    records = [r for r in content["runs"] if r["level"] == "call" and r["passes"] == PASSES[1]]
    bars = [(r, times) for r in records if (times := ratio(r, records)) is not None][:MOST_BARS]
    ours = [record for record in records if record["who"] == "mtlfast"]
    if not ours:
        return False
    height = max(5.0, 2.0 + 0.24 * len(bars))
    figure = Figure(figsize=(13, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    _shares(left, ours)
    _ratios(right, bars)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    machine = content["machine"]
    where = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"
    busy = sum(record["busy"] for record in records)
    disturbed = f"; {busy} of {len(records)} runs disturbed by others" if busy else ""
    figure.suptitle(f"mtlfast, forward + backward, on {where}{disturbed}", x=0.01, ha="left")
    pixels = io.BytesIO()
    figure.savefig(pixels, dpi=120)
    write_atomic(path, pixels.getvalue())
    return True


def _shares(axes: Any, ours: Sequence[Record]) -> None:
    """Draws each of our calls, and a line for each family through the medians of like sizes."""
    for family, color in FAMILIES.items():
        points = [(r["bytes"] / 1e6, 100 * r["copy_share"]) for r in ours if r["family"] == family]
        if not points:
            continue
        like: list[list[tuple[float, float]]] = []
        for point in sorted(points):
            if not like or point[0] > 2 * like[-1][0][0]:
                like.append([])
            like[-1].append(point)
        line = [[median(column) for column in zip(*group, strict=True)] for group in like]
        axes.plot(*zip(*points, strict=True), "o", color=color, alpha=0.35, markersize=5, mew=0)
        axes.plot(*zip(*line, strict=True), "o-", color=color, label=WORDS[family], markersize=5)
    axes.axhline(100, color=DARK, linestyle="--", linewidth=1)
    axes.annotate(
        "the limit: copying as many bytes",
        (0.01, 100),
        (0, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=9,
        color=DARK,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_xlim(_decades(r["bytes"] / 1e6 for r in ours))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color="#eeeeee")
    axes.set_xlabel("bytes that must move, MB")
    axes.set_ylabel("share of the copy bandwidth")
    axes.set_title("How near mtlfast comes to the memory's limit", loc="left", fontsize=11)
    _legend(axes, "line: median of cases of like size, faint: each case")


def _decades(values: Iterable[float]) -> tuple[float, float]:
    """Returns the powers of ten around the values."""
    logs = [math.log10(value) for value in values]
    return 10 ** math.floor(min(logs)), 10 ** (math.floor(max(logs)) + 1)


def _ratios(axes: Any, bars: Sequence[tuple[Record, float]]) -> None:
    """Draws a bar from 1 to the ratio for every rival of every case."""
    axes.set_title("How long the alternatives take", loc="left", fontsize=11)
    axes.set_xlabel("times as long as mtlfast (log scale)")
    if not bars:
        axes.text(0.5, 0.5, "no rival was timed", transform=axes.transAxes, ha="center", color=DARK)
        return
    labels = [_label(record) for record, _ in bars]
    for kind, color in KINDS.items():
        rows = [i for i, (record, _) in enumerate(bars) if _kind(record["who"]) == kind]
        widths = [bars[i][1] - 1 for i in rows]
        if rows:
            axes.barh(rows, widths, left=1, height=0.7, color=color, label=kind)
    for i, (_, times) in enumerate(bars):
        text = f"{times:.0f}x" if times >= 20 else f"{times:.1f}x"
        axes.annotate(
            text, (max(times, 1), i), (3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.axvline(1, color=DARK, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, *(0.8 * times for _, times in bars)), 1.6 * max(t for _, t in bars))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_yticks(range(len(bars)), labels, fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.grid(axis="x", color="#eeeeee")
    _legend(axes, "what mtlfast is compared with")


def _legend(axes: Any, title: str) -> None:
    """Puts the legend below, where no value can be."""
    place = {"loc": "upper left", "bbox_to_anchor": (0, -50 / axes.bbox.height)}
    legend = axes.legend(**place, ncols=3, frameon=False, fontsize=9, title=title, borderaxespad=0)
    legend.set_alignment("left")
    legend.get_title().set_fontsize(9)


def _kind(name: str) -> str:
    if name == "compile":
        return "torch.compile of it"
    return "another library" if name in ("pml", "sbert") else "plain PyTorch"


def _label(record: Record) -> str:
    loss = record["what"].replace("binary_cross_entropy_with_logits", "BCE")
    dtype = "" if record["dtype"] == "float32" else f" {record['dtype']}"
    target = {"NaN targets": " NaN", "full targets": " full"}.get(record["data"], "")
    return f"{loss} {record['shape']}{target}{dtype}: {record['who']}"
