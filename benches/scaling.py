"""A picture of how an in-batch loss grows with the batch: time and peak memory against N.

    python benches/scaling.py [FOLDER]

times the cases of ``mtlfast bench`` that differ in N alone and draws scaling.png into the folder,
by default runs.
"""

import sys
from contextlib import suppress
from pathlib import Path

from matplotlib.figure import Figure

from mtlfast.bench.case import PASSES, NotRun, Run
from mtlfast.bench.cases import chosen
from mtlfast.bench.session import Session, Settings

LOSS, GROWING = "batch_triplet_loss", "batch_triplet_loss all"


def measured():
    """Returns (N, seconds, peak extra bytes) of the growing loss, by N."""
    session = Session(Settings())
    cases = [case for case in chosen(session.device, losses=[LOSS]) if case.what == GROWING]
    records = []
    for case in cases:
        with suppress(NotRun):  # too large for this machine, say
            records.append((case, session.time(case, Run("mtlfast", "call", PASSES[1]))))
    return sorted(
        (case.rows, record["median"], record["peak_extra_bytes"])
        for case, record in records
        if record
    )


def draw(points, path):
    """Draws the picture of what was measured."""
    rows, seconds, peaks = zip(*points, strict=True)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    quadratic = [seconds[-1] * (n / rows[-1]) ** 2 for n in rows]
    axes[0].loglog(rows, [1e3 * s for s in seconds], "o-", label="measured")
    axes[0].loglog(rows, [1e3 * s for s in quadratic], "--", color="grey", label="grows as N²")
    axes[0].set_ylabel("forward + backward, ms")
    axes[0].legend(frameon=False)
    axes[1].semilogx(rows, [peak / 2**20 for peak in peaks], "o-", label="measured")
    axes[1].semilogx(
        rows, [n * n * 4 / 2**20 for n in rows], "--", color="grey", label="one N x N matrix"
    )
    axes[1].set_ylim(0, max(1.5 * max(peaks) / 2**20, 64))
    axes[1].set_ylabel("peak extra memory, MiB")
    axes[1].legend(frameon=False)
    for axis in axes:
        axis.set_xlabel("N embeddings, D = 128, 64 a class")
        axis.set_xticks(rows, [str(n) for n in rows])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("batch_triplet_loss, all triplets")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    folder = Path(*sys.argv[1:2] or ["runs"])
    folder.mkdir(parents=True, exist_ok=True)
    points = measured()
    if len(points) < 3:
        sys.exit(f"scaling.png needs three sizes at least; {len(points)} could be timed.")
    draw(points, folder / "scaling.png")
    print(f"Written: {folder / 'scaling.png'}.")
