"""Loss modules: each holds keyword arguments and calls the function of the same family."""

from mtlfast.modules.embeddings import (
    BatchContrastiveLoss,
    BatchTripletLoss,
    ContrastiveLoss,
    HierarchicalTripletLoss,
    NormalizedTripletLoss,
    TripletMarginLoss,
)
from mtlfast.modules.pointwise import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    L1Loss,
    MSELoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
)

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "BatchContrastiveLoss",
    "BatchTripletLoss",
    "ContrastiveLoss",
    "HierarchicalTripletLoss",
    "L1Loss",
    "MSELoss",
    "NormalizedTripletLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "TripletMarginLoss",
]
