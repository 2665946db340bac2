"""What one writes without mtlfast.

The mean BCE over labelled elements, four ways: functions of (x, y), logits (N, T) and targets in
which a negative integer or a NaN means that the label is missing. Narrow logits are widened first,
as autocast does for torch's BCE: a sum over a million elements would overflow in float16. Then the
losses on embeddings, in plain PyTorch and by pytorch-metric-learning.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import normalize, pairwise_distance, relu, triplet_margin_loss


def labelled(y):
    return ~y.isnan() if y.is_floating_point() else y >= 0


def where(x, y):
    present = labelled(y)
    target = torch.where(present, y, 0).float()
    elements = bce(x.float(), target, reduction="none")
    return torch.where(present, elements, 0).sum() / present.sum().clamp(min=1)


def index(x, y):
    present = labelled(y)
    return bce(x[present].float(), y[present].float())


def unmasked(x, y):
    return bce(x.float(), y.float())


def normalized_triplet(anchor, positive, negative):
    rows = (normalize(x) for x in (anchor, positive, negative))
    return 0.5 * triplet_margin_loss(*rows, margin=0.2, eps=0.0)


def normalized_triplet_of_squares(anchor, positive, negative):
    a, p, n = (normalize(x) for x in (anchor, positive, negative))
    near, far = ((a - p) ** 2).sum(1), ((a - n) ** 2).sum(1)
    return 0.5 * relu(near - far + 0.2).mean()


def contrastive(x1, x2, same):
    d = pairwise_distance(x1, x2, eps=0.0)
    return 0.5 * torch.where(same, d, relu(1.0 - d)).square().mean()


def metric_learning(loss, miner=None):
    """Returns pytorch-metric-learning's loss, or the reason why it can't run."""
    try:
        from pytorch_metric_learning import losses, miners
    except ModuleNotFoundError:
        return "not run: pytorch-metric-learning is not installed"
    function = getattr(losses, loss)()
    if loss == "TripletMarginLoss":
        function.margin = 0.2
    mine = getattr(miners, miner)() if miner else lambda embeddings, labels: None
    return lambda embeddings, labels: function(embeddings, labels, mine(embeddings, labels))


POINTWISE = {"where": where, "index": index, "F.bce": unmasked, "compile": where}
PLAIN = {
    "normalized_triplet_loss": normalized_triplet_of_squares,
    "normalized_triplet_loss distances": normalized_triplet,
    "contrastive_loss": contrastive,
}
METRIC_LEARNING = {
    "batch_triplet_loss all": ("TripletMarginLoss",),
    "batch_triplet_loss hard": ("TripletMarginLoss", "BatchHardMiner"),
    "batch_contrastive_loss": ("ContrastiveLoss",),
}


def of_embeddings(who, what):
    """Returns a function of a case's inputs, or the reason why it can't run."""
    return metric_learning(*METRIC_LEARNING[what]) if who == "pml" else PLAIN[what]


def compiled(function):
    """Returns a fresh torch.compile of `function`: default mode, one graph per shape."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)
