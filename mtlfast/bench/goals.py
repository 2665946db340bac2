"""How fast the losses are meant to be, and whether they are: the project's own yardstick.

A goal is named after a rival (its time over ours, public call against public call), "op" or "call"
(share of the copy bandwidth), "us" or "seconds" (of the public call, at most). All are of forward
and backward, on 2 threads of a CPU with AVX-512.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtlfast.bench.case import PASSES
from mtlfast.bench.pointwise_cases import BCE, LARGE, LOSSES, pointwise
from mtlfast.bench.table import ratio

__all__ = ["ON_CPU", "verdicts"]

Record = Mapping[str, Any]
SHAPES = ("2621440x1", "524288x5", "218453x12", "65536x40", "26214x100", "8192x1000", "64x40000")
ON_CPU: dict[str, dict[str, float]] = {
    **{f"{BCE} {shape} float32 int8 targets": {"op": 0.85} for shape in SHAPES},
    f"{BCE} 65536x40 float32 int8 targets": {
        "where": 12,
        "index": 35,
        "compile": 8,
        "op": 0.85,
        "call": 0.7,
    },
    f"{BCE} 8192x1000 float32 int8 targets": {"where": 12, "compile": 6, "op": 0.85, "call": 0.5},
    f"{BCE} 8192x40 float32 int8 targets": {"compile": 6},
    f"{BCE} 256x40 float32 int8 targets": {"where": 2, "index": 5, "compile": 2, "us": 50},
    f"{BCE} 256x40 float32 full targets": {"F.bce": 1 / 1.15},
    f"{BCE} 65536x40 float32 NaN targets": {"compile": 3, "op": 0.85},
    f"{BCE} 65536x40 float32 full targets": {"F.bce": 3, "op": 0.85},
    f"{BCE} 65536x40 bfloat16 int8 targets": {"op": 0.45},
    **{pointwise(loss, 65536, 40).name: {"op": 0.85} for loss in LOSSES if loss != BCE},
    "normalized_triplet_loss distances 4096x256 float32 3 kinds of rows": {"eager": 13},
    "normalized_triplet_loss 4096x256 float32 3 kinds of rows": {"compile": 3},
    "normalized_triplet_loss 32768x256 float32 3 kinds of rows": {"compile": 1.7},
    "triplet_margin_loss 4096x256 float32 3 kinds of rows": {"compile": 3},
    "contrastive_loss 4096x256 float32 2 kinds of rows": {"compile": 2},
    "batch_triplet_loss all 512x128 float32 64 rows a class": {"pml": 180},
    "batch_triplet_loss hard 512x128 float32 64 rows a class": {"pml": 5},
    "batch_contrastive_loss 512x128 float32 64 rows a class": {"pml": 3.5},
    "batch_triplet_loss all 4096x128 float32 64 rows a class": {"seconds": 0.7},
}


def of(record: Record, device: str) -> Mapping[str, float]:
    """Returns the goals of a record's case."""
    if device == "cpu":
        return ON_CPU.get(record["case"], {})
    large = record["family"] == "pointwise" and record["elements"] >= LARGE
    bandwidth = 0.7 if record["dtype"] == "bfloat16" else 0.9
    return {"compile": 1.0, **({"op": bandwidth} if large else {})}


def memory_allowed(record: Record) -> int:
    """Returns bytes: the gradients and 4 MB; in-batch 32 MB of scratch and twice the rows."""
    gradient = record["gradient_bytes"]
    return 3 * gradient + (32 << 20) if record["family"] == "inbatch" else gradient + (5 << 20)


def judged(record: Record, records: Sequence[Record], device: str) -> Iterator[tuple[str, bool]]:
    """Yields (what was asked and found, whether it is reached) for one record."""
    goals = of(record, device)
    level, ours = record["level"], record["who"] == "mtlfast"
    if ours and level in goals:
        share = record["copy_share"]
        yield f"{level} {goals[level]:.0%}: {share:.0%} of the copy", share >= goals[level]
    elif not ours and level == "call" and record["who"] in goals:
        wanted, times = goals[record["who"]], ratio(record, records)
        if times is not None:
            yield f"{record['who']} {wanted:g}x: {times:.2f}x", times >= wanted
    if ours and level == "call":
        for unit, factor in (("us", 1e6), ("seconds", 1)):
            if unit in goals:
                found = record["median"] * factor
                yield f"at most {goals[unit]} {unit}: {found:.3g}", found <= goals[unit]


def verdicts(records: Sequence[Record], device: str) -> list[str]:
    """Returns a line for each goal that was missed, and one that counts; load decides nothing."""
    ends, missed = Counter[str](), list[str]()
    for record in records:
        if record["passes"] != PASSES[1]:
            continue
        for said, reached in judged(record, records, device):
            end = "busy" if record["busy"] else "reached" if reached else "missed"
            ends[end] += 1
            missed += [f"Goal missed: {record['case']}, {said}."] if end == "missed" else []
        if record["who"] == "mtlfast" and record["level"] == "call":
            fits = record["peak_extra_bytes"] <= memory_allowed(record)
            ends["reached" if fits else "missed"] += 1
            if not fits:
                peak = record["peak_extra_bytes"] / 1e6
                missed.append(f"Goal missed: {record['case']}, memory: {peak:.3g} MB.")
    busy = f"{ends['busy']} not judged for load"
    counts = f"{ends['reached']} of {ends.total()} reached, {busy}"
    return [f"Goals (mtlfast/bench/goals.py): {counts}.", *missed]
