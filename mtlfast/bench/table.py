"""Results as a table: what ours took and reached, and every rival beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from mtlfast.bench.measure import QUIET

__all__ = ["duration", "markdown", "notes", "plain", "ratio", "sorted_runs", "title", "who"]

Record = Mapping[str, Any]
LEGEND = (
    "time: median ± interquartile range of a call of the public function with a plain backward.",
    "kernels: our ops alone, on prepared arguments. graph: a replayed CUDA graph of fwd+bwd.",
    "GB/s, of copy: bytes that must move (inputs read; for the backward read again and gradients "
    "written), the same for all, and their share of the copy bandwidth measured beside them.",
    "peak MB: the most memory held at once beyond the inputs. x ours: times as long as ours.",
    "error: of value and gradient against the specification in float64, relative; whoever is off "
    "by more than rounding is not timed, and is listed as WRONG.",
    "where, index, eager: plain PyTorch; compile: torch.compile of it; F.bce: torch's, all labels "
    "there; torchvision, timm: their formulas, written out; pml: pytorch-metric-learning; sbert: "
    "sentence-transformers.",
    f"* other processes kept more than {QUIET} cores busy meanwhile: not to be relied on.",
)
HEADS = ("pass", "run", "time", "ns/element", "GB/s", "of copy", "peak MB", "x ours")
ERRORS = ("error: value", "gradient")
ON_GPU = ("launches", "syncs")


def duration(seconds: float, spread: float | None = None) -> str:
    """Returns a time in a fitting unit, with its spread.

    Example:
        >>> duration(0.00281, 0.0001)
        '2.81 ± 0.10 ms'
    """
    factor, unit = next(
        ((f, u) for f, u in ((1, "s"), (1e3, "ms"), (1e6, "us")) if seconds * f >= 1), (1e6, "us")
    )
    value = seconds * factor
    digits = _digits(value)
    both = [value] if spread is None else [value, spread * factor]
    return " ± ".join(f"{one:.{digits}f}" for one in both) + f" {unit}"


def sorted_runs(records: Sequence[Record]) -> list[Record]:
    """Returns the records by case and pass; within these, as they were run."""
    place = {name: i for i, name in enumerate(dict.fromkeys(r["case"] for r in records))}
    return sorted(records, key=lambda r: (place[r["case"]], r["passes"]))


def ratio(record: Record, records: Iterable[Record]) -> float | None:
    """Returns how many times as long as ours a run takes; None for ours, and without ours."""
    level = "graph" if record["level"] == "graph" else "call"
    wanted = (record["case"], record["passes"], "mtlfast", level)
    for ours in records:
        if (ours["case"], ours["passes"], ours["who"], ours["level"]) == wanted:
            return None if ours is record else record["median"] / ours["median"]
    return None


def who(record: Record) -> str:
    """Returns who ran, and how where it isn't a call."""
    how = {"call": "", "op": ", kernels", "graph": ", graph"}[record["level"]]
    return record["who"] + how


def _of(entry: Record) -> str:
    return f"{who(entry)}, {entry['case']}, {entry['passes']}"


def _digits(value: float) -> int:
    """Returns how many decimals make three digits."""
    return 0 if value >= 100 else 1 if value >= 10 else 2


def _cells(record: Record, records: Sequence[Record], gpu: bool) -> list[str]:
    """Returns the cells of a row."""
    times = ratio(record, records)
    peak = record.get("peak_extra_bytes")
    share, each = record["copy_share"], record["ns_per_element"]
    errors = [record.get(f"error_{name}") for name in ("value", "gradient")]
    return [
        record["passes"],
        who(record),
        duration(record["median"], record["iqr"]) + ("*" if record["busy"] else " "),
        f"{each:.0f}" if each >= 100 else f"{each:.3g}",
        f"{record['gb_per_s']:.3g}",
        "<0.1%" if share < 0.001 else f"{share:.{0 if share >= 0.1 else 1}%}",
        "" if peak is None else f"{peak / 1e6:.3g}",
        "" if times is None else f"{times:.{_digits(times)}f}",
        *("" if error is None else f"{error:.0e}" for error in errors),
        *(str(record.get(name, "")) for name in ON_GPU if gpu),
    ]


def _table(records: Sequence[Record]) -> tuple[list[str], list[tuple[Record, list[str]]]]:
    """Returns the heads and, with each record, its cells."""
    gpu = any("launches" in record for record in records)
    heads = [*HEADS, *ERRORS, *(ON_GPU if gpu else ())]
    return heads, [(r, _cells(r, records, gpu)) for r in sorted_runs(records)]


def title(record: Record) -> str:
    """Returns a case as a heading."""
    return f"{record['what']}, {record['shape']}, {record['dtype']}, {record['data']}"


def plain(records: Sequence[Record]) -> list[str]:
    """Returns the table as aligned lines, a block for each case."""
    heads, rows = _table(records)
    columns = list(zip(heads, *(cells for _, cells in rows), strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        both = list(zip(cells, widths, strict=True))
        left = [f"{cell:<{width}}" for cell, width in both[:2]]
        return "  ".join(["", *left, *(f"{cell:>{width}}" for cell, width in both[2:])]).rstrip()

    lines = [line(heads)]
    for _, block in groupby(rows, key=lambda row: row[0]["case"]):
        of_case = list(block)
        lines += ["", title(of_case[0][0]), *(line(cells) for _, cells in of_case)]
    return lines


def markdown(records: Sequence[Record], said: Sequence[str]) -> list[str]:
    """Returns the table and what is said of it as Markdown."""
    heads, rows = _table(records)
    heads = ["loss", "shape", "dtype", "data", *heads]
    lines = ["# mtlfast against the rest", "", *(f"* {note}" for note in said), ""]
    lines.append("| " + " | ".join(heads) + " |")
    lines.append("|" + "---|" * 6 + "--:|" * (len(heads) - 6))
    for record, cells in rows:
        of_case = [record[name] for name in ("what", "shape", "dtype", "data")]
        lines.append("| " + " | ".join(cell.strip() for cell in (*of_case, *cells)) + " |")
    return lines


def notes(content: Mapping[str, Any]) -> list[str]:
    """Returns what a reader must know beside the table: what was off, the machine, the words."""
    machine, settings, copy = content["machine"], content["settings"], content["copy_gb_per_s"]
    wrong = [entry for entry in content["not_run"] if entry["wrong"]]
    left_out: dict[str, Counter[str]] = {}
    for entry in content["not_run"]:
        if not entry["wrong"]:
            left_out.setdefault(entry["reason"], Counter())[entry["who"]] += 1
    allocator = ", ".join(
        [f"{k}={v}" for k, v in settings["environment"].items()]
        + ["freed memory kept (--keep-pages)"] * bool(settings["keep_pages"])
    )
    said = [f"WRONG, not timed: {_of(entry)}: {entry['reason']}." for entry in wrong]
    for reason, people in left_out.items():
        counts = ", ".join(f"{name} {number}" for name, number in people.items())
        said.append(f"Runs left out, {reason}: {counts}.")
    where = machine.get("gpu") or f"{machine['processor']}, {machine['instructions']}"
    said.append(
        f"{where}; {machine['threads']} of {machine['cores']} CPU threads; torch "
        f"{machine['torch']}, mtlfast {machine['mtlfast']}, Python {machine['python']}."
    )
    if copy:
        said.append(
            f"Copy bandwidth {copy['median']:.1f} GB/s, read + written (from {copy['min']:.1f} to "
            f"{copy['max']:.1f}, measured just before each of our calls)."
        )
    said.append(
        f"Allocator and threads: {allocator or 'as the system sets them'}, for all alike. glibc "
        "maps blocks of 32 MiB and more afresh on every call, and page faults then dominate."
    )
    return [*said, *LEGEND]
