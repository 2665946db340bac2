"""The timed cases of the losses on embeddings: rows side by side, and whole batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mtlfast.bench.case import PASSES, Case

__all__ = ["EMBEDDINGS", "BatchCase", "RowsCase", "batch_all"]


@dataclass(frozen=True)
class RowsCase(Case):
    """A loss on N rows of several kinds; ``options`` are keywords of the public function."""

    options: tuple[tuple[str, object], ...] = ()

    family = "rows"

    @property
    def what(self) -> str:
        distances = dict(self.options).get("squared", True)
        return self.loss if distances else f"{self.loss} distances"

    @property
    def kinds(self) -> int:
        """How many kinds of rows there are: an anchor and others."""
        return {"contrastive_loss": 2, "hierarchical_triplet_loss": 4}.get(self.loss, 3)

    @property
    def data(self) -> str:
        return f"{self.kinds} kinds of rows"

    @property
    def elements(self) -> int:
        return self.rows * self.width * self.kinds

    def inputs(self, device: str) -> tuple[Tensor, ...]:
        random = torch.Generator(device).manual_seed(1)
        shape = (self.rows, self.width)
        dtype = getattr(torch, self.dtype)
        tensors = [
            torch.randn(shape, generator=random, device=device).to(dtype).requires_grad_()
            for _ in range(self.kinds)
        ]
        if self.loss == "contrastive_loss":
            tensors.append(torch.rand(self.rows, generator=random, device=device) < 0.5)
        return tuple(tensors)

    def divisor(self, *tensors: Tensor) -> int:
        return len(tensors[0])

    def ours(self, *tensors: Tensor, **options: object) -> Tensor:
        given: tuple[object, ...] = tensors
        if self.loss == "hierarchical_triplet_loss":
            given = tensors[0], tensors[1:]
        return super().ours(*given, **dict(self.options), **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class BatchCase(Case):
    """A loss on a whole batch, at most 64 rows of which share a label."""

    mining: str = ""  # of batch_triplet_loss

    family = "in-batch"
    levels = ("call",)
    apart = False
    slack = 10  # of millions of triplets, some lie at the edge of the hinge and count or don't

    @property
    def what(self) -> str:
        return f"{self.loss} {self.mining}".strip()

    @property
    def per_class(self) -> int:
        """How many rows share a label."""
        return min(64, max(2, self.rows // 8))

    @property
    def data(self) -> str:
        return f"{self.per_class} rows a class"

    @property
    def triplets(self) -> int:
        """How many triplets there are."""
        return self.rows * (self.per_class - 1) * (self.rows - self.per_class)

    @property
    def truth_bytes(self) -> int:
        pairs, triples = 40 * self.rows**2 * self.width, 48 * self.rows**3
        return pairs + (0 if self.mining in ("", "hard") else triples)

    def inputs(self, device: str) -> tuple[Tensor, ...]:
        random = torch.Generator(device).manual_seed(1)
        shape = (self.rows, self.width)
        rows = torch.randn(shape, generator=random, device=device).to(getattr(torch, self.dtype))
        labels = torch.arange(self.rows, device=device) // self.per_class
        order = torch.randperm(self.rows, generator=random, device=device)
        return rows.requires_grad_(), labels[order]

    def ours(self, *tensors: Tensor, **options: object) -> Tensor:
        mining = {"mining": self.mining} if self.mining else {}
        return super().ours(*tensors, **mining, **options)


def batch_all(rows: int) -> BatchCase:
    """Returns a case of all triplets alone, to see how time and memory grow with N."""
    return BatchCase("batch_triplet_loss", rows, 128, passes=PASSES[1:], mining="all")


_DISTANCES = (("squared", False),)
_MARGINS = (("margins", (0.3, 0.1)),)
BOTH = ("eager", "compile")
LIBRARIES = ("pml", "sbert")
EMBEDDINGS: list[Case] = [
    RowsCase(
        "normalized_triplet_loss", 4096, 256, rivals=("eager",), quick=True, options=_DISTANCES
    ),
    RowsCase("normalized_triplet_loss", 4096, 256, rivals=BOTH),
    RowsCase("contrastive_loss", 4096, 256, rivals=BOTH, quick=True),
    RowsCase("triplet_margin_loss", 4096, 256, rivals=BOTH, quick=True),
    RowsCase("hierarchical_triplet_loss", 4096, 256, rivals=BOTH, quick=True, options=_MARGINS),
    BatchCase("batch_triplet_loss", 512, 128, rivals=LIBRARIES, quick=True, mining="all"),
    BatchCase("batch_triplet_loss", 512, 128, rivals=LIBRARIES, quick=True, mining="hard"),
    BatchCase("batch_triplet_loss", 512, 128, rivals=("pml",), mining="semihard"),
    BatchCase("batch_contrastive_loss", 512, 128, rivals=("pml",), quick=True),
    RowsCase("normalized_triplet_loss", 32768, 256, rivals=("compile",)),
    *(batch_all(rows) for rows in (256, 1024, 2048, 4096, 8192)),
]
