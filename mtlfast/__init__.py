"""mtlfast: fused loss kernels for multi-task learning, and a thin trainer."""

from mtlfast import functional, weighting
from mtlfast.modules import (
    AsymmetricLoss,
    BCEWithLogitsLoss,
    L1Loss,
    MSELoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
)
from mtlfast.ops.backends import available_backends, info

__version__ = "0.1.0"

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "L1Loss",
    "MSELoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "available_backends",
    "functional",
    "info",
    "weighting",
]
