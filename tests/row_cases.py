"""The case table of the losses on rows of embeddings, in the terms of cases.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import torch
from runnable import Runnable, lay_out
from torch import Tensor

import mtlfast.functional as MF
from mtlfast.ops.catalogue import FAMILIES, LOSSES


class Row(NamedTuple):
    """One loss: its function, its number of rows, what it is tried with, what it takes."""

    function: Callable[..., Any]
    rows: int
    variants: list[dict[str, Any]]
    arguments: frozenset[str]


# What a loss is tried with, where that is not, or not only, its defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "contrastive_loss": [
        {"margin": 6.0},
        {"distance": "manhattan", "margin": 20.0},
        {"distance": "cosine"},
        {"distance": "cosine", "scale": 0.0, "bias": 0.0},
        {"normalize": True, "margin": 1.5},
        {"distance": "manhattan", "normalize": True, "margin": 5.0},
    ],
    "triplet_margin_loss": [
        {},
        {"p": 1.0, "margin": 3.0},
        {"p": 3.0, "swap": True, "eps": 1e-3},
        {"swap": True},
        {"normalize": True},
        {"normalize": True, "p": 1.0, "swap": True},
        {"normalize": True, "p": 1.5},
        {"squared": True, "margin": 0.5},
        {"squared": True, "p": 1.0, "normalize": True},
        {"soft": True, "margin": -0.3},
        {"soft": True, "swap": True, "normalize": True, "squared": True},
    ],
    "normalized_triplet_loss": [{}, {"squared": False, "margin": 0.5}],
    "hierarchical_triplet_loss": [
        {"margins": [0.9, 0.3]},
        {"margins": [1.1, 0.2], "squared": False},
    ],
}


def _row(name: str) -> Row:
    function = getattr(MF, name)
    own = signature(function).parameters
    variants = VARIANTS.get(name, [{}])
    given = [p for p in own.values() if p.default is p.empty and p.name != "same"]
    rows = len(variants[0]["margins"]) + 2 if "levels" in own else len(given)
    return Row(function, rows, variants, frozenset(own))


ROW_LOSSES = {name: _row(name) for name, loss in LOSSES.items() if loss.family == "rows"}


@dataclass(frozen=True)
class RowSetting:
    """A shape, a layout, how the rows lie to one another, and which operands come along."""

    name: str
    shape: tuple[int, ...]
    spread: float | None = None  # rows around one direction; None for rows all over
    short: bool = False  # some rows 0, some equal
    weighted: bool = False  # sample_weight and, where it may be, a margin per row
    layout: str = "contiguous"  # or "transposed", "strided", "apart"
    one_anchor: bool = False  # the same anchor for all rows, expanded


ROW_SETTINGS = [
    RowSetting("plain", (37, 24)),
    RowSetting("everything", (21, 40), short=True, weighted=True),
    RowSetting("narrow", (33, 3), weighted=True),
    RowSetting("one_column", (9, 1)),
    RowSetting("odd", (18, 17)),
    RowSetting("wide", (7, 1000)),
    RowSetting("widest", (3, 8192)),
    RowSetting("one_row", (1, 64)),
    RowSetting("no_rows", (0, 8), weighted=True),
    RowSetting("vector", (16,)),
    RowSetting("deep", (2, 3, 8), weighted=True),
    RowSetting("tight", (20, 64), spread=1e-3),
    RowSetting("tighter", (20, 64), spread=1e-5),
    RowSetting("short", (20, 8), short=True),
    RowSetting("transposed", (12, 10), layout="transposed"),
    RowSetting("strided", (12, 10), layout="strided"),
    RowSetting("apart", (12, 10), layout="apart"),
    RowSetting("one_anchor", (11, 12), one_anchor=True),
    RowSetting("many_rows", (2100, 20), weighted=True),
]


class RowInputs(NamedTuple):
    """The tensors of a case: rows by name, then same and the factors."""

    rows: dict[str, Tensor]
    factors: dict[str, Tensor]

    def named(self) -> dict[str, Tensor]:
        return {**self.rows, **self.factors}

    def replace(self, named: dict[str, Tensor]) -> RowInputs:
        return RowInputs(
            {name: named[name] for name in self.rows},
            {name: named[name] for name in self.factors},
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> RowInputs:
        return self.replace({name: change(tensor) for name, tensor in self.named().items()})

    def double(self) -> RowInputs:
        return self.map(lambda t: t.double() if t.is_floating_point() else t)


def apart(rows: list[Tensor], gap: float) -> list[Tensor]:
    """Moves elements until none of different unit rows are nearer than `gap` of their size.

    Norms may round by more than elements differ: by as much, in float32, as decides the sign of a
    difference of rows that lie close, and the digits of a root of it where it is small by chance.
    """
    step = max(2.0**-12, 4 * gap, 4 * torch.finfo(rows[0].dtype).eps)
    for turn in range(1000):
        units = [torch.nn.functional.normalize(row.double(), dim=-1) for row in rows]
        moved = False
        for k in range(1, len(rows)):
            # The sign is that of a - b + eps, eps being 0 or 1e-6.
            gaps = [(u - units[k] + eps).abs() / u.abs() for u in units[:k] for eps in (0, 1e-6)]
            where = (torch.stack(gaps) < gap).any(0)
            for u in units[:k]:
                where &= (u != units[k]).any(-1, keepdim=True)
            rows[k] = torch.where(where, rows[k] / (1 + step * (1 + turn % 5 / 4)), rows[k])
            moved = moved or bool(where.any())
        if not moved:
            return rows
    raise AssertionError("elements stay too close")


@dataclass(frozen=True)
class RowCase(Runnable):
    """One loss with keyword arguments, in one setting."""

    loss: str
    variant: int
    setting: RowSetting

    REDUCTIONS = FAMILIES["rows"]
    CONSTANT = ("margin",)

    def __str__(self) -> str:
        return f"{self.loss}-{self.variant}-{self.setting.name}"

    @property
    def row(self) -> Row:
        return ROW_LOSSES[self.loss]

    @property
    def options(self) -> dict[str, Any]:
        return self.row.variants[self.variant]

    @property
    def _gap(self) -> float:
        """How near elements of unit rows may not be, because rounding would decide gradients."""
        p = 1.0 if self.options.get("distance") == "manhattan" else self.options.get("p", 2.0)
        if not self.options.get("normalize") or p >= 2:
            return 0.0
        near = self.setting.spread is not None
        if p == 1:  # signs, of which rows that lie all over leave none to rounding
            return 2.0**-18 if near else 0.0
        return 0.0 if near else 2.0**-4  # of near rows all differences are alike, and plain's too

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> RowInputs:
        """Returns the case's tensors, the same values for every dtype but for rounding."""
        setting, generator = self.setting, self.generator()
        lead = setting.shape[:-1]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        rows = [normal(*setting.shape) for _ in range(self.row.rows)]
        if setting.spread is not None:
            centre = normal(setting.shape[-1])
            rows = [centre + setting.spread * row for row in rows]
        if setting.short:
            for k, row in enumerate(rows):
                row[k :: 2 * len(rows)] = 0
            rows[1][len(rows) :: 2 * len(rows)] = rows[0][len(rows) :: 2 * len(rows)]
        rows = [row.to(dtype) for row in rows]
        if self._gap:
            rows = apart(rows, self._gap)
        rows = [lay_out(row.to(device), setting.layout) for row in rows]
        if setting.one_anchor:
            rows[0] = rows[0][:1].expand(rows[0].shape)
        factors = {}
        if "same" in self.row.arguments:
            factors["same"] = torch.rand(lead, generator=generator) < 0.5
        if setting.weighted:
            # Powers of two: their products are exact, whatever the order.
            factors["sample_weight"] = 2.0 ** torch.randint(-2, 2, lead, generator=generator)
            if "margin" in self.row.arguments:
                factors["margin"] = 0.75 * 2.0 ** torch.randint(-2, 3, lead, generator=generator)
        for name in ("scale", "bias"):
            if name in self.options:
                factors[name] = normal() * 2
        factors = {
            name: factor.to(device, dtype if factor.is_floating_point() else None)
            for name, factor in factors.items()
        }
        return RowInputs({f"x{k}": row for k, row in enumerate(rows)}, factors)

    def __call__(self, inputs: RowInputs, **options: Any) -> Tensor:
        """Runs the public function."""
        rows = list(inputs.rows.values())
        options = {**self.options, **inputs.factors, **options}
        if "levels" in self.row.arguments:
            rows = [rows[0], rows[1:]]
        return self.row.function(*rows, **options)

    def values(self, inputs: RowInputs, **options: Any) -> dict[str, Tensor]:
        """Returns the loss."""
        return {"loss": self(inputs, **options)}


ROW_CASES = [RowCase(loss, 0, setting) for loss in ROW_LOSSES for setting in ROW_SETTINGS]
ROW_CASES += [
    RowCase(loss, variant, setting)
    for loss, row in ROW_LOSSES.items()
    for variant in range(1, len(row.variants))
    for setting in ROW_SETTINGS
    if setting.name in ("plain", "everything", "narrow", "wide", "tight", "short")
]
