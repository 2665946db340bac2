"""mtlfast: fused loss kernels for multi-task learning, and a thin trainer.

The losses are functions in `mtlfast.functional` and modules here. `mtlfast.weighting` weighs tasks,
`mtlfast.distributed` gathers a batch that is spread over processes. `mtlfast.train` is the trainer,
and `mtlfast.recipes` holds whole systems; both are imported by name, as they need more packages.
"""

from mtlfast import distributed, functional, weighting
from mtlfast.margin import MarginUpdater
from mtlfast.modules import (
    AsymmetricLoss,
    BatchContrastiveLoss,
    BatchTripletLoss,
    BCEWithLogitsLoss,
    ContrastiveLoss,
    HierarchicalTripletLoss,
    L1Loss,
    MSELoss,
    NormalizedTripletLoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    TripletMarginLoss,
)
from mtlfast.ops.backends import available_backends, info

__version__ = "0.1.0"

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "BatchContrastiveLoss",
    "BatchTripletLoss",
    "ContrastiveLoss",
    "HierarchicalTripletLoss",
    "L1Loss",
    "MSELoss",
    "MarginUpdater",
    "NormalizedTripletLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "TripletMarginLoss",
    "available_backends",
    "distributed",
    "functional",
    "info",
    "weighting",
]
