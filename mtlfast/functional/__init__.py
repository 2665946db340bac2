"""Loss functions: drop-in for torch.nn.functional, with missing labels, weights and embeddings."""

import torch.fx

from mtlfast.functional.combine import weighted_sum
from mtlfast.functional.inbatch import batch_contrastive_loss, batch_triplet_loss
from mtlfast.functional.margins import attribute_margin
from mtlfast.functional.pointwise import (
    asymmetric_loss,
    binary_cross_entropy_with_logits,
    sigmoid_focal_loss,
)
from mtlfast.functional.regression import l1_loss, mse_loss, smooth_l1_loss
from mtlfast.functional.rows import (
    contrastive_loss,
    hierarchical_triplet_loss,
    normalized_triplet_loss,
    triplet_margin_loss,
)
from mtlfast.functional.typed import TaskLosses
from mtlfast.ops.catalogue import LOSSES as LOSSES

__all__ = [
    "TaskLosses",
    "asymmetric_loss",
    "attribute_margin",
    "batch_contrastive_loss",
    "batch_triplet_loss",
    "binary_cross_entropy_with_logits",
    "contrastive_loss",
    "hierarchical_triplet_loss",
    "l1_loss",
    "mse_loss",
    "normalized_triplet_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "triplet_margin_loss",
    "weighted_sum",
]

for _name in __all__:
    if _name != "TaskLosses":
        torch.fx.wrap(_name)  # recorded as one call, as torch's own losses are
