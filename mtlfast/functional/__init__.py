"""Loss functions: drop-in for torch.nn.functional, with missing labels and weights over tasks."""

from mtlfast.functional.arguments import TaskLosses
from mtlfast.functional.combine import weighted_sum
from mtlfast.functional.pointwise import (
    asymmetric_loss,
    binary_cross_entropy_with_logits,
    sigmoid_focal_loss,
)
from mtlfast.functional.regression import l1_loss, mse_loss, smooth_l1_loss

__all__ = [
    "TaskLosses",
    "asymmetric_loss",
    "binary_cross_entropy_with_logits",
    "l1_loss",
    "mse_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "weighted_sum",
]
