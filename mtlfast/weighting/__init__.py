"""Task weightings: modules that turn T task losses into one scalar and remember how in buffers.

They work in anyone's loop, and never ask the device for a number:

    weighting = ValidationLossTrend(num_tasks=40, interval=100)
    weighting.observe(validation_losses, validation_counts)      # unweighted, without gradient
    weighting(training_losses, training_counts).backward()
"""

from mtlfast.weighting.base import Weighting
from mtlfast.weighting.fixed import Fixed
from mtlfast.weighting.geometric_mean import GeometricMean
from mtlfast.weighting.random_weights import RandomWeights
from mtlfast.weighting.uncertainty import Uncertainty
from mtlfast.weighting.windows import DynamicWeightAverage, ValidationLossTrend

__all__ = [
    "DynamicWeightAverage",
    "Fixed",
    "GeometricMean",
    "RandomWeights",
    "Uncertainty",
    "ValidationLossTrend",
    "Weighting",
]
