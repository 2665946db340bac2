"""The in-batch losses against pytorch-metric-learning and finite differences, in float64."""

import pytest
import torch
from batch_cases import LOSSES, Batch, batch_of, each_loss, lattice

import mtlfast.functional as MF
from mtlfast.ops import native

native_only = pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")
BACKENDS = [pytest.param("native", marks=native_only), "reference"]


def theirs(loss, batch):
    """Returns the loss as pytorch-metric-learning computes it."""
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    options = loss.options
    distance = distances.LpDistance(
        normalize_embeddings=options.get("normalize", True), power=1 + options.get("squared", False)
    )
    reducer = {
        "nonzero": reducers.AvgNonZeroReducer,
        "mean": reducers.MeanReducer,
        "sum": reducers.SumReducer,
    }[options.get("reduction", "nonzero")]()
    mined = None
    if loss.function is MF.batch_contrastive_loss:
        margins = {name: options[name] for name in ("pos_margin", "neg_margin") if name in options}
        computed = losses.ContrastiveLoss(**margins, distance=distance, reducer=reducer)
    else:
        computed = losses.TripletMarginLoss(
            options["margin"],
            smooth_loss=options.get("soft", False),
            distance=distance,
            reducer=reducer,
        )
        if options["mining"] == "hard":
            miner = miners.BatchHardMiner(distance=distance)
            mined = miner(*batch)
        elif options["mining"] == "semihard":
            miner = miners.TripletMarginMiner(options["margin"], "semihard", distance=distance)
            mined = miner(*batch)
    references = {"ref_emb": batch.ref_embeddings, "ref_labels": batch.ref_labels}
    return computed(batch.embeddings, batch.labels, mined, **references)


def compare(loss, batch, **options):
    leaves = [batch.embeddings.requires_grad_()]
    if batch.ref_embeddings is not None:
        leaves.append(batch.ref_embeddings.requires_grad_())
    expected, got = theirs(loss, batch), loss(batch, **options)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    three = (torch.autograd.grad(value, leaves) for value in (got, expected))
    for ours, other in zip(*three, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@each_loss
@pytest.mark.parametrize(
    "name", ["classes", "reference set", "rows without positives", "tight 1e-1", "few duplicates"]
)
def test_equals_pytorch_metric_learning(name, loss, backend):
    if name == "tight 1e-1":  # tighter, its own float64 distances lose digits
        batch = batch_of("tight")
        labels = batch.labels
        centres = torch.stack([batch.embeddings[labels == c].mean(0) for c in labels])
        batch = Batch(centres + 100 * (batch.embeddings - centres), labels)
    elif name == "few duplicates":  # up to 25 rows, torch.cdist takes differences
        x = lattice(torch.Generator().manual_seed(0), 8, 9)  # rounding would decide on others
        x = x if loss.options.get("normalize", True) else 3 * x  # and at a difference of 1
        batch = Batch(torch.cat([x, x, x[:5]]), torch.arange(21) // 3 % 4)
    else:
        batch = batch_of(name)
    compare(loss, batch, backend=backend)


@native_only
@pytest.mark.parametrize("loss", [LOSSES[i] for i in (0, 5, 10, 15)], ids=str)
def test_equals_pytorch_metric_learning_on_larger_batches(loss):
    rows = 256 if loss.options.get("mining") in ("all", "semihard") else 512
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, 32, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, rows // 32, (rows,), generator=generator)
    compare(loss, Batch(x + 0.3 * x[labels], labels), backend="native")


@native_only
@each_loss
@pytest.mark.parametrize("name", ["classes", "reference set", "tight"])
def test_gradcheck(name, loss):
    batch = batch_of(name)
    rows = [t if t is None else t[:6, :3] if t.is_floating_point() else t[:6] for t in batch]
    leaves = [t.requires_grad_() for t in rows if t is not None and t.is_floating_point()]

    def function(*given):
        pending = iter(given)
        floating = [t is not None and t.is_floating_point() for t in rows]
        tensors = [next(pending) if f else t for t, f in zip(rows, floating, strict=True)]
        return loss(Batch(*tensors), backend="native")

    eps = 1e-8 if name == "tight" else 1e-6
    torch.autograd.gradcheck(function, leaves, eps=eps, atol=1e-5)
    if name != "tight":
        torch.autograd.gradgradcheck(function, leaves, eps=eps, atol=1e-5, fast_mode=True)
