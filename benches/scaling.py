"""A picture of how an in-batch loss grows with the batch: time and peak memory against N."""

GROWING = "batch_triplet_loss all"
FEWEST = 3  # sizes worth a picture


def sizes(records):
    """Returns (N, seconds, peak extra bytes) of the growing loss, by N."""
    return sorted(
        (int(r["shape"].partition("x")[0]), r["median"], r["peak_extra_bytes"])
        for r in records
        if (r["what"], r["who"], r["passes"]) == (GROWING, "mtlfast", "fwd+bwd")
    )


def draw(records, path):
    """Draws the picture; returns whether there was enough to draw."""
    points = sizes(records)
    if len(points) < FEWEST:
        return False
    from matplotlib.figure import Figure

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
    return True
