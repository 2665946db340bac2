"""Batches of labelled embeddings, and the in-batch losses with their options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import mtlfast.functional as MF


class Batch(NamedTuple):
    """Embeddings and labels, and maybe a reference set; leaves are what gets a gradient."""

    embeddings: Tensor
    labels: Tensor
    ref_embeddings: Tensor | None = None
    ref_labels: Tensor | None = None

    def to(self, dtype: torch.dtype, device: str = "cpu") -> Batch:
        def change(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            tensor = tensor.to(device)
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        return Batch(*map(change, self))

    def shared_by_equal_rows(self, gradient: Tensor) -> Tensor:
        """Returns the gradient summed over equal embeddings: which of them is mined, is chance."""
        groups = self.embeddings.unique(dim=0, return_inverse=True)[1]
        return torch.zeros_like(gradient).index_add_(0, groups, gradient)

    def gradients(self, loss: Loss, **options: Any) -> list[Tensor]:
        """Returns the loss, and the gradients of embeddings and reference embeddings."""
        floating = [t is not None and t.is_floating_point() for t in self]
        pairs = list(zip(self, floating, strict=True))
        given = [t.detach().clone().requires_grad_() if f else t for t, f in pairs]
        value = loss(Batch(*given), **options)
        leaves = [t for t, f in zip(given, floating, strict=True) if f]
        return [value.detach(), *torch.autograd.grad(value, leaves)]


class Loss(NamedTuple):
    """A loss with its options."""

    function: Callable[..., Tensor]
    options: dict[str, Any]

    def __str__(self) -> str:
        given = (f"{k}={v}" if isinstance(v, float) else str(v) for k, v in self.options.items())
        return "-".join([self.function.__name__.split("_")[1], *given])

    def __call__(self, batch: Batch, **options: Any) -> Tensor:
        reference = {"ref_embeddings": batch.ref_embeddings, "ref_labels": batch.ref_labels}
        given = {**self.options, **options}
        return self.function(batch.embeddings, batch.labels, **reference, **given)

    def ties(self, name: str) -> bool:
        """Whether rounding decides on that batch what is mined, or which hinges are active."""
        mining, normalize = self.options.get("mining"), self.options.get("normalize", True)
        if name == "grid":
            return normalize
        if "duplicates" in name:
            return mining == "semihard"  # a negative as far as the positive it equals
        return name == "short rows" and (mining == "semihard" or not self.options) and normalize


LOSSES = [
    *(
        Loss(MF.batch_triplet_loss, {"margin": margin, "mining": mining, **extra})
        for mining in ("all", "hard", "semihard")
        for margin, extra in (
            (0.2, {}),
            (0.3, {"normalize": False, "reduction": "mean"}),
            (0.25, {"squared": True, "reduction": "sum"}),
            (0.2, {"soft": True, "reduction": "mean"}),
            (1.0, {"normalize": False, "squared": True}),
        )
    ),
    Loss(MF.batch_contrastive_loss, {}),
    Loss(MF.batch_contrastive_loss, {"pos_margin": 0.25, "neg_margin": 1.25, "reduction": "mean"}),
    Loss(MF.batch_contrastive_loss, {"normalize": False, "reduction": "sum"}),
    Loss(MF.batch_contrastive_loss, {"squared": True, "neg_margin": 0.5}),
    Loss(MF.batch_contrastive_loss, {"normalize": False, "squared": True, "neg_margin": 5.0}),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)


def _classes(make: torch.Generator, rows: int = 40, classes: int = 5, width: int = 9) -> Batch:
    x = torch.randn(rows, width, dtype=torch.float64, generator=make)
    return Batch(x, torch.randint(0, classes, (rows,), generator=make))


def _tight(make: torch.Generator, spread: float = 1e-3) -> Batch:
    noise, labels = _classes(make)[:2]
    centres = torch.randn(5, 9, dtype=torch.float64, generator=make)
    return Batch(centres[labels] + spread * noise, labels)


def _multi_hot(make: torch.Generator) -> Batch:
    """A third of the rows have no label; 70 labels need more than one word."""
    x, _ = _classes(make)[:2]
    labels = torch.rand(len(x), 70, generator=make) < 0.02
    labels[::3] = False
    return Batch(x, labels)


def _reference_set(make: torch.Generator) -> Batch:
    x, labels = _classes(make, 23)[:2]
    return Batch(x, labels, *_classes(make, 31)[:2])


def _short_rows(make: torch.Generator) -> Batch:
    x, labels = _classes(make)[:2]
    x[3], x[7] = 0, 1e-20
    return Batch(x, labels)


def _grid(make: torch.Generator) -> Batch:
    """Integers: distances tie, coincide with each other and with 0, exactly in every dtype."""
    x = torch.randint(0, 3, (30, 2), generator=make).double()
    return Batch(x, torch.randint(0, 3, (30,), generator=make))


def _duplicates(make: torch.Generator) -> Batch:
    x, labels = _classes(make, 20)[:2]
    return Batch(torch.cat([x, x, x[:5]]), torch.cat([labels, labels.roll(3), labels[:5]]))


def _singles(make: torch.Generator) -> Batch:
    x, labels = _classes(make)[:2]
    return Batch(x, torch.where(torch.arange(len(x)) % 2 == 0, labels, torch.arange(len(x)) + 9))


BATCHES: dict[str, Callable[[torch.Generator], Batch]] = {
    "classes": _classes,
    "many of each": lambda make: Batch(*_classes(make, 12, 2)[:2], *_classes(make, 240, 2)[:2]),
    "tight": _tight,
    "multi-hot": _multi_hot,
    "reference set": _reference_set,
    "short rows": _short_rows,
    "grid": _grid,
    "duplicates": _duplicates,
    "rows without positives": _singles,
    "one class": lambda make: _classes(make, classes=1),
    "all distinct": lambda make: Batch(_classes(make)[0], torch.randperm(40, generator=make)),
}
each_batch = pytest.mark.parametrize("name", BATCHES)


def batch_of(name: str, seed: int = 0) -> Batch:
    """Returns a batch in float64."""
    return BATCHES[name](torch.Generator().manual_seed(seed))
