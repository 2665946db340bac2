"""What is known of each loss, stated once: everyone else reads it here.

Ops take a loss by its number in its family, its parameters as a list of floats, and a reduction by
its number; a str argument would leak at every call of a native op, in torch's conversions. Here
names become numbers, and lists become named values again; native library and Triton kernels have
lists of their own, which are compared with these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mtlfast.ops import reference, reference_inbatch

__all__ = [
    "CHOICES",
    "FAMILIES",
    "IN_WORDS",
    "KERNELS",
    "LOSSES",
    "NONE",
    "REDUCTIONS",
    "Loss",
    "compute_dtype",
    "numbered",
]

# In the order of their numbers, those of all families.
REDUCTIONS = ("none", "sum", "mean", "batchmean", "taskmean", "nonzero")
NONE = REDUCTIONS.index("none")
FAMILIES = {  # what each is reduced by
    "pointwise": ("none", "sum", "mean", "batchmean", "taskmean"),
    "rows": ("none", "sum", "mean", "nonzero"),
    "inbatch": ("nonzero", "mean", "sum"),
}
IN_WORDS = {
    "pointwise": "losses of logits and labels",
    "rows": "losses on rows of embeddings",
    "inbatch": "losses on a whole batch of embeddings",
}
# The values of parameters that are names, in the order of their numbers.
CHOICES = {
    "distance": ("euclidean", "manhattan", "cosine"),
    "mining": ("all", "hard", "semihard"),
}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype that a loss is computed in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Loss:
    """The record of a loss.

    Attributes:
        name: as in ``mtlfast.functional``.
        family: ``"pointwise"`` on (N, T), ``"rows"`` on (N, D) side by side, ``"inbatch"`` on all
            pairs of (N, D): the access pattern, of which the ops are.
        reference: the specification, in plain PyTorch.
        parameters: what it takes beside tensors, by name in the order of its kernels, and the
            defaults; ``gaps``, last, are as many as there are. Label smoothing belongs to the
            pointwise family, whose ops take it before these.
        classification: labels are classes: a negative one is missing, and they can be smoothed.
        weighted_mean: ``"mean"`` divides by the labelled sum of `weight`, as torch does.
        runs: the loss whose kernels it runs; None: it has its own.
    """

    name: str
    family: str
    reference: Callable[..., Tensor]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    classification: bool = False
    weighted_mean: bool = False
    runs: str | None = None

    @property
    def number(self) -> int:
        """The number of its kernels in the family."""
        return KERNELS[self.family].index(self.runs or self.name)

    @property
    def reductions(self) -> tuple[str, ...]:
        """The reductions it takes."""
        return FAMILIES[self.family]

    def settings(
        self, values: Mapping[str, Any], reduction: str, *leading: float
    ) -> tuple[int, list[float], int]:
        """Returns what its ops are told beside tensors: its number, parameters, the reduction.

        Args:
            values: its parameters by name.
            reduction: its name.
            leading: what the family's ops take before the parameters.
        """
        return self.number, [*leading, *self.pack(values)], REDUCTIONS.index(reduction)

    def pack(self, values: Mapping[str, Any]) -> list[float]:
        """Returns the parameters as its ops take them.

        Example:
            >>> LOSSES["batch_triplet_loss"].pack(
            ...     {"mining": "hard", "margin": 0.2, "squared": False, "soft": True}
            ... )
            [1.0, 0.2, 0.0, 1.0]
        """
        packed: list[float] = []
        for name in self.parameters:
            value = values[name]
            if name == "gaps":
                packed.extend(value)
            else:
                packed.append(float(CHOICES[name].index(value) if name in CHOICES else value))
        return packed

    def unpack(self, packed: Sequence[float]) -> dict[str, Any]:
        """Returns what ``pack`` was given.

        Example:
            >>> LOSSES["hierarchical_triplet_loss"].unpack([1.0, 0.6, 0.2])
            {'squared': True, 'gaps': [0.6, 0.2]}
        """
        values: dict[str, Any] = {}
        for place, (name, default) in enumerate(self.parameters.items()):
            if name == "gaps":
                values[name] = list(packed[place:])
            elif name in CHOICES:
                values[name] = CHOICES[name][int(packed[place])]
            else:
                value = packed[place]
                values[name] = value != 0 if isinstance(default, bool) else value
        return values


_RECORDS = (
    Loss(
        "binary_cross_entropy_with_logits",
        "pointwise",
        reference.binary_cross_entropy_with_logits,
        classification=True,
    ),
    Loss(
        "sigmoid_focal_loss",
        "pointwise",
        reference.sigmoid_focal_loss,
        {"alpha": 0.25, "gamma": 2.0},
        classification=True,
    ),
    Loss(
        "asymmetric_loss",
        "pointwise",
        reference.asymmetric_loss,
        {"gamma_neg": 4.0, "gamma_pos": 1.0, "clip": 0.05, "eps": 1e-8},
        classification=True,
    ),
    Loss("mse_loss", "pointwise", reference.mse_loss, weighted_mean=True),
    Loss("l1_loss", "pointwise", reference.l1_loss, weighted_mean=True),
    Loss("smooth_l1_loss", "pointwise", reference.smooth_l1_loss, {"beta": 1.0}),
    Loss(
        "contrastive_loss",
        "rows",
        reference.contrastive_loss,
        {"margin": 1.0, "distance": "euclidean", "normalize": False},
    ),
    Loss(
        "triplet_margin_loss",
        "rows",
        reference.triplet_margin_loss,
        {
            "margin": 1.0,
            "p": 2.0,
            "eps": 1e-6,
            "swap": False,
            "normalize": False,
            "squared": False,
            "soft": False,
        },
    ),
    Loss(
        "hierarchical_triplet_loss",
        "rows",
        reference.hierarchical_triplet_loss,
        {"squared": True, "gaps": ()},
    ),
    Loss(
        "normalized_triplet_loss",
        "rows",
        reference.normalized_triplet_loss,
        {"squared": True, "margin": 0.2},
        runs="hierarchical_triplet_loss",
    ),
    Loss(
        "batch_triplet_loss",
        "inbatch",
        reference_inbatch.batch_triplet_loss,
        {"mining": "all", "margin": 0.2, "squared": False, "soft": False},
    ),
    Loss(
        "batch_contrastive_loss",
        "inbatch",
        reference_inbatch.batch_contrastive_loss,
        {"pos_margin": 0.0, "neg_margin": 1.0, "squared": False},
    ),
)

LOSSES = {loss.name: loss for loss in _RECORDS}
# The names of the losses that have kernels of their own, in the order of their numbers.
KERNELS = {
    family: tuple(loss.name for loss in _RECORDS if loss.family == family and loss.runs is None)
    for family in FAMILIES
}


def numbered(family: str, number: int) -> Loss:
    """Returns the loss of a family whose kernels have this number.

    Example:
        >>> numbered("inbatch", 1).name
        'batch_contrastive_loss'
    """
    return LOSSES[KERNELS[family][number]]
