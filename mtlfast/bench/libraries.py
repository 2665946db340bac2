"""The in-batch losses of other libraries, where they are installed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import normalize

from mtlfast.bench.case import NotRun

__all__ = ["LIBRARIES"]

MARGIN = 0.2
Function = Callable[[Tensor, Tensor], Tensor]


def metric_learning(what: str) -> Function:
    """Returns pytorch-metric-learning's loss; it normalises rows itself."""
    try:
        from pytorch_metric_learning import losses, miners
    except ModuleNotFoundError as error:
        raise NotRun("pytorch-metric-learning is not installed") from error
    if what == "batch_contrastive_loss":
        return losses.ContrastiveLoss()
    loss = losses.TripletMarginLoss(margin=MARGIN)
    if what == "batch_triplet_loss all":
        return loss
    semihard = miners.TripletMarginMiner(MARGIN, "semihard")
    mine = miners.BatchHardMiner() if what == "batch_triplet_loss hard" else semihard
    return lambda embeddings, labels: loss(embeddings, labels, mine(embeddings, labels))


def sentence_transformers(what: str) -> Function:
    """Returns sentence-transformers' loss of normalised rows.

    Its losses embed sentences and then call a method on the embeddings: that method is called here,
    and no model is needed. Its batch-hard loss divides by all rows, ours by those with a positive
    loss, which is the same wherever every row has one; the check before timing sees to it.
    """
    try:
        from sentence_transformers import losses
    except ModuleNotFoundError as error:
        raise NotRun("sentence-transformers is not installed") from error
    form = what.removeprefix("batch_triplet_loss ")
    loss = {"all": losses.BatchAllTripletLoss, "hard": losses.BatchHardTripletLoss}[form]
    method = getattr(loss(model=None, margin=MARGIN), f"batch_{form}_triplet_loss")
    return lambda embeddings, labels: method(labels, normalize(embeddings))


LIBRARIES: dict[str, Callable[[str], Function]] = {
    "pml": metric_learning,
    "sbert": sentence_transformers,
}
