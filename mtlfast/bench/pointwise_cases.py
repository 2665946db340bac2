"""The timed cases of the pointwise losses: (N, T) logits or predictions and targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import mtlfast.functional as MF
from mtlfast.bench.case import Case
from mtlfast.bench.rivals import FORMULAS, unmasked

__all__ = ["BCE", "LARGE", "LOSSES", "POINTWISE", "PointwiseCase", "pointwise"]

BCE = "binary_cross_entropy_with_logits"
LOSSES = [name for name, loss in MF.LOSSES.items() if loss.family == "pointwise"]
LARGE = 64 << 20  # elements from which a GPU is asked for its full bandwidth
MISSING = 0.3  # share of the labels that are missing


def labels(loss: str, x: Tensor, y: Tensor) -> Tensor:
    """Returns how many labels are present, as the loss itself counts them."""
    options = {"return_tasks": True, "backend": "reference"}
    return getattr(MF, loss)(x.detach(), y, **options)[1].count.sum()


@dataclass(frozen=True)
class PointwiseCase(Case):
    """A pointwise loss, reduced to the mean over labelled elements as all rivals have it.

    Attributes:
        target: "int8", with -1 missing; "NaN", floating with NaN missing; "full", floating.
    """

    target: str = "int8"

    @property
    def data(self) -> str:
        return f"{self.target} targets"

    @property
    def input_bytes(self) -> int:
        target = {"int8": 1}.get(self.target, 8 if self.dtype == "float64" else 4)
        return self.elements * (self.itemsize + target)

    def ours(self, *tensors: Tensor, **options: object) -> Tensor:
        return super().ours(*tensors, **{"reduction": "mean", **options})

    def divisor(self, *tensors: Tensor) -> Tensor:
        return labels(self.loss, *tensors)

    def inputs(self, device: str) -> tuple[Tensor, ...]:
        shape = (self.rows, self.width)
        random = torch.Generator(device).manual_seed(1)
        x = torch.randn(shape, generator=random, device=device) * 2
        missing = torch.rand(shape, generator=random, device=device) < MISSING
        if MF.LOSSES[self.loss].classification:
            y = torch.randint(0, 2, shape, generator=random, device=device, dtype=torch.int8)
        else:
            y = torch.randn(shape, generator=random, device=device)
        if self.target == "int8":
            y = torch.where(missing, -1, y)
        else:
            y = y.to(torch.promote_types(getattr(torch, self.dtype), torch.float32))
            y = y if self.target == "full" else torch.where(missing, torch.nan, y)
        return x.to(getattr(torch, self.dtype)).requires_grad_(), y.contiguous()


def masked(loss: str) -> tuple[str, ...]:
    """Returns the rivals that leave missing labels out; a new loss may have none yet."""
    formulas = FORMULAS.get(loss, {})
    found = [who for who, formula in formulas.items() if formula is not unmasked]
    return (*found, "compile") if found else ()


def pointwise(
    loss: str, rows: int, width: int, dtype: str = "float32", quick: bool = False
) -> PointwiseCase:
    """Returns the case of a loss with missing labels, against all that one may write for it."""
    target = "int8" if MF.LOSSES[loss].classification else "NaN"
    return PointwiseCase(loss, rows, width, dtype, masked(loss), quick, target=target)


def _bce(
    rows: int, tasks: int, target: str = "int8", dtype: str = "float32", *rivals: str
) -> PointwiseCase:
    return PointwiseCase(BCE, rows, tasks, dtype, rivals or ("where",), target=target)


POINTWISE = [
    pointwise(BCE, 65536, 40, quick=True),
    pointwise(BCE, 256, 40, quick=True),
    PointwiseCase(BCE, 65536, 40, rivals=("F.bce",), quick=True, target="full"),
    *(pointwise(loss, 65536, 40, quick=True) for loss in LOSSES if loss != BCE),
    pointwise(BCE, 8192, 1000),
    pointwise(BCE, 8192, 40),
    _bce(65536, 40, "NaN", "float32", *masked(BCE)),
    *(
        PointwiseCase(BCE, LARGE // 40 + 1, 40, dtype, rivals, gpu_only=True, target=target)
        for target, dtype, rivals in (
            ("int8", "float32", masked(BCE)),
            ("NaN", "float32", ("compile",)),
            ("int8", "bfloat16", ("where", "compile")),
        )
    ),
    _bce(8192, 1000, "NaN"),
    _bce(256, 40, "full", "float32", "F.bce"),
    *(
        _bce(rows, tasks)
        for rows, tasks in ((2621440, 1), (524288, 5), (218453, 12), (26214, 100), (64, 40000))
    ),
    _bce(65536, 40, dtype="bfloat16"),
    _bce(65536, 40, dtype="float16"),
]
