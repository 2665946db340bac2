"""Batches of labelled embeddings, and the in-batch losses with their options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import mtlfast.functional as MF
from mtlfast.ops.reference import unit
from mtlfast.ops.reference_inbatch import distances, matches


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

    def shared_by_equal_rows(self, results: list[Tensor]) -> list[Tensor]:
        """Returns a loss, and its gradients summed over equal embeddings."""
        rows = [t for t in self if t is not None and t.is_floating_point()]
        shared = results[:1]
        for gradient, embeddings in zip(results[1:], rows, strict=True):
            groups = embeddings.unique(dim=0, return_inverse=True)[1]
            shared.append(torch.zeros_like(gradient).index_add_(0, groups, gradient))
        return shared

    @property
    def own(self) -> bool:
        return self.ref_embeddings is None

    @property
    def others(self) -> Tensor:
        return self.embeddings if self.ref_embeddings is None else self.ref_embeddings

    def leaves(self) -> tuple[Batch, list[Tensor]]:
        """Returns the batch, detached, and the embeddings in it, which ask for a gradient."""
        given = Batch(*(t if t is None else t.detach().clone() for t in self))
        floating = [t for t in given if t is not None and t.is_floating_point()]
        return given, [t.requires_grad_() for t in floating]

    def gradients(self, loss: Loss, **options: Any) -> list[Tensor]:
        """Returns the loss, and the gradients of embeddings and reference embeddings."""
        given, leaves = self.leaves()
        value = loss(given, **options)
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

    def gaps(self, batch: Batch) -> Tensor:
        """Returns how far from an edge each decision is: what is mined, which hinge is active."""
        x, y = batch.embeddings, batch.others
        if self.options.get("normalize", True):
            x, y = unit(x), unit(y)
        squared = bool(self.options.get("squared"))
        d = distances(x, y, squared)
        match = matches(batch.labels, batch.labels if batch.own else batch.ref_labels)
        valid = ~torch.eye(*match.shape, dtype=torch.bool, device=d.device) | (not batch.own)
        positive, negative = match & valid, ~match & valid
        if "mining" not in self.options:
            near, far = (
                self.options.get(name, m) for name, m in (("pos_margin", 0.0), ("neg_margin", 1.0))
            )
            return torch.cat([(d - near)[positive & (near != 0)], (d - far)[negative]]).abs()
        mining, margin = self.options["mining"], self.options["margin"]
        if mining == "hard":
            far = torch.where(positive, d, -torch.inf).sort(1, descending=True).values
            near = torch.where(negative, d, torch.inf).sort(1).values
            roots = [
                t.clamp(min=0).sqrt() if self.options.get("squared") else t for t in (far, near)
            ]
            seconds = [(t[:, 1:] - t[:, :1]).flatten() for t in roots]
            seconds = [t[t.isfinite()] for t in seconds]
            difference = (near - far)[:, 0]
            difference = difference[difference.isfinite()]
        else:
            triplets = positive[:, :, None] & negative[:, None, :]
            seconds, difference = [], (d[:, None, :] - d[:, :, None])[triplets]
        if mining == "semihard":
            seconds.append(difference)
        if mining == "semihard" or not self.options.get("soft"):
            seconds.append(difference - margin)
        return torch.cat([d.new_empty(0), *seconds]).abs()


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


def lattice(make: torch.Generator, rows: int, width: int) -> Tensor:
    """Returns rows like (1, 0, -1, 1, 1): distances are exact in every dtype, of unit rows too."""
    x = torch.randint(0, 2, (rows, width), generator=make).double() * 2 - 1
    order = torch.rand(rows, width, generator=make).argsort(1)
    count = torch.where(torch.rand(rows, 1, generator=make) < 0.2, 1, 4)
    return x * (order < count) * 2.0 ** torch.randint(-1, 3, (rows, 1), generator=make)


def _short_rows(make: torch.Generator) -> Batch:
    """All others are just as far from a short one: with any others, rounding would decide."""
    x, labels = lattice(make, 40, 9), _classes(make)[1]
    x[3], x[7] = 0, 1e-30
    return Batch(x, labels)


def _grid(make: torch.Generator) -> Batch:
    """Distances tie, and coincide with each other and with 0."""
    return Batch(lattice(make, 30, 4), torch.randint(0, 3, (30,), generator=make))


def _twice(x: Tensor, labels: Tensor) -> Batch:
    return Batch(torch.cat([x, x, x[:5]]), torch.cat([labels, labels.roll(3), labels[:5]]))


def _duplicates(make: torch.Generator) -> Batch:
    return _twice(*_classes(make, 20)[:2])


def _exact_duplicates(make: torch.Generator) -> Batch:
    """A negative is as far as the positive that it equals, in every dtype."""
    return _twice(lattice(make, 20, 9), _classes(make, 20)[1])


def _scaled(batch: Batch, factor: float) -> Batch:
    return batch._replace(embeddings=batch.embeddings * factor)


def _singles(make: torch.Generator) -> Batch:
    x, labels = _classes(make)[:2]
    return Batch(x, torch.where(torch.arange(len(x)) % 2 == 0, labels, torch.arange(len(x)) + 9))


Maker = Callable[[torch.Generator], Batch]
BATCHES: dict[str, Maker] = {
    "classes": _classes,
    "many of each": lambda make: Batch(*_classes(make, 12, 2)[:2], *_classes(make, 240, 2)[:2]),
    "tight": _tight,
    "multi-hot": _multi_hot,
    "reference set": _reference_set,
    "short rows": _short_rows,
    "grid": _grid,
    "duplicates": _duplicates,
    "exact duplicates": _exact_duplicates,
    "small": lambda make: _scaled(_classes(make), 1e-2),
    "small and tight": lambda make: _scaled(_tight(make), 1e-2),
    "rows without positives": _singles,
    "one class": lambda make: _classes(make, classes=1),
    "all distinct": lambda make: Batch(_classes(make)[0], torch.randperm(40, generator=make)),
}
EXACT = [_short_rows, _grid, _exact_duplicates]  # where ties are decided alike by everyone
CLEAR = 5e-7  # of the longest row: further from an edge, float32 decides as float64 does


def batch_of(name: str, seed: int = 0) -> Batch:
    """Returns a batch in float64."""
    return BATCHES[name](torch.Generator().manual_seed(seed))


def clear_batch(make: Maker, loss: Loss, dtype: torch.dtype) -> Batch:
    """Returns a batch with values of that dtype, where rounding decides nothing for a loss."""
    for seed in range(100):
        batch = make(torch.Generator().manual_seed(seed)).to(dtype)
        gaps = loss.gaps(batch.to(torch.float64))
        if loss.options.get("mining") == "hard" or make in EXACT:
            gaps = gaps[gaps > 0]  # of equal rows, or of equal distances the first
        largest = batch.embeddings.norm(dim=1).max() ** (2 if loss.options.get("squared") else 1)
        least = CLEAR * (1 if loss.options.get("normalize", True) else largest)
        if gaps.numel() == 0 or gaps.min() > least:
            return batch
    raise AssertionError(f"rounding decides on {make} for {loss}")


# Where a negative equals a positive it is as far, and only exact distances tell that it is no
# farther.
BATCH_CASES = [
    (name, loss)
    for name in BATCHES
    for loss in LOSSES
    if not (name == "duplicates" and loss.options.get("mining") == "semihard")
]
each_batch_case = pytest.mark.parametrize(
    "name, loss", BATCH_CASES, ids=[f"{loss}-{name}" for name, loss in BATCH_CASES]
)
