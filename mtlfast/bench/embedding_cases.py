"""The timed cases of the losses on embeddings: rows side by side, and whole batches."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import mtlfast.functional as MF
from mtlfast.bench.case import PASSES, Case
from mtlfast.bench.rivals import FORMULAS

__all__ = ["EMBEDDINGS", "BatchCase", "RowsCase", "others"]

LABELS = ("same",)  # what a loss on rows calls a label of its rows
MARGINS = (0.3, 0.1)  # where a loss takes several, and so one level of rows more


@dataclass(frozen=True)
class RowsCase(Case):
    """A loss on N rows of several kinds; ``options`` are keywords of the public function."""

    options: tuple[tuple[str, object], ...] = ()

    @property
    def what(self) -> str:
        distances = dict(self.options).get("squared", True)
        return self.loss if distances else f"{self.loss} distances"

    @cached_property
    def operands(self) -> dict[str, Any]:
        """What the public function must be given: the types by name, as its signature has them."""
        signature = inspect.signature(getattr(MF, self.loss), eval_str=True)
        return {
            parameter.name: parameter.annotation
            for parameter in signature.parameters.values()
            if parameter.default is parameter.empty
        }

    @cached_property
    def kinds(self) -> int:
        """How many kinds of rows there are: an anchor, say, and others."""
        several = {Tensor: 1, Sequence[Tensor]: len(MARGINS) + 1}
        given = self.operands.items()
        return sum(several.get(kind, 0) for name, kind in given if name not in LABELS)

    @cached_property  # every timed call asks
    def places(self) -> dict[str, int | slice]:
        """Where among the inputs an operand stands: rows in their order, then labels of them."""
        places: dict[str, int | slice] = {}
        rows, labels = 0, self.kinds
        for name, kind in self.operands.items():
            if name in LABELS:
                places[name], labels = labels, labels + 1
            elif kind is Tensor:
                places[name], rows = rows, rows + 1
            elif kind == Sequence[Tensor]:
                places[name] = slice(rows, rows := rows + len(MARGINS) + 1)
        return places

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Keywords of the public function: what it must be given beside tensors, and options."""
        return dict.fromkeys(self.operands.keys() - self.places, MARGINS) | dict(self.options)

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
        tensors += [
            torch.rand(self.rows, generator=random, device=device) < 0.5
            for name in self.operands
            if name in LABELS
        ]
        return tuple(tensors)

    def divisor(self, *tensors: Tensor) -> int:
        return len(tensors[0])

    def ours(self, *tensors: Tensor, **options: object) -> Tensor:
        given = {name: tensors[place] for name, place in self.places.items()}
        return super().ours(**given, **self.settings, **options)


@dataclass(frozen=True)
class BatchCase(Case):
    """A loss on a whole batch, at most 64 rows of which share a label."""

    mining: str = ""  # of batch_triplet_loss

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


def others(family: str, cases: Iterable[Case]) -> Iterator[Case]:
    """Yields a case of each loss of the family that has none, rows against all there is for it."""
    known = {case.loss for case in cases}
    for loss, record in MF.LOSSES.items():
        if record.family == family and loss not in known:
            rivals = ("eager", "compile") if loss in FORMULAS else ()
            if family == "rows":
                yield RowsCase(loss, 4096, 256, rivals=rivals, quick=True)
            else:
                yield BatchCase(loss, 512, 128, quick=True)


_DISTANCES = (("squared", False),)
ROWS = [
    RowsCase(
        "normalized_triplet_loss", 4096, 256, rivals=("eager",), quick=True, options=_DISTANCES
    ),
    RowsCase("normalized_triplet_loss", 4096, 256, rivals=("eager", "compile")),
]
BATCHES = [
    BatchCase("batch_triplet_loss", 512, 128, rivals=("pml", "sbert"), quick=True, mining="all"),
    BatchCase("batch_triplet_loss", 512, 128, rivals=("pml", "sbert"), quick=True, mining="hard"),
    BatchCase("batch_triplet_loss", 512, 128, rivals=("pml",), mining="semihard"),
    BatchCase("batch_contrastive_loss", 512, 128, rivals=("pml",), quick=True),
]
EMBEDDINGS: list[Case] = [
    *ROWS,
    *others("rows", ROWS),
    *BATCHES,
    *others("inbatch", BATCHES),
    RowsCase("normalized_triplet_loss", 32768, 256, rivals=("compile",)),
    # All triplets alone, to see how time and memory grow with N.
    *(
        BatchCase("batch_triplet_loss", rows, 128, passes=PASSES[1:], mining="all")
        for rows in (256, 1024, 2048, 4096, 8192)
    ),
]
