"""The case table of the pointwise losses, and how a case is built and run.

A new loss adds nothing here, or the arguments that it is tried with: every property runs over the
product of the catalogue's losses, their variants and SETTINGS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import pytest
import torch
from row_cases import ROW_CASES, RowCase
from runnable import Runnable, lay_out
from torch import Tensor

import mtlfast.functional as MF
from mtlfast.ops import catalogue
from mtlfast.ops.catalogue import FAMILIES

REDUCTIONS = FAMILIES["pointwise"]
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


class Row(NamedTuple):
    """One loss: its function, the keyword arguments it is tried with, and its own factors."""

    function: Callable[..., Any]
    variants: list[dict[str, float]]
    factors: tuple[str, ...] = ()
    classification: bool = True


# What a loss is tried with beside its defaults.
VARIANTS: dict[str, list[dict[str, float]]] = {
    "binary_cross_entropy_with_logits": [{"label_smoothing": 0.1}, {"label_smoothing": 1.0}],
    "sigmoid_focal_loss": [
        {"alpha": -1, "gamma": 0.0},
        {"alpha": 0.6, "gamma": 1.0, "label_smoothing": 0.2},
        {"gamma": 0.5},
        {"gamma": 3.5},
        {"gamma": 7.0},
        {"gamma": 8.0},
    ],
    "asymmetric_loss": [
        {"gamma_neg": 0.0, "gamma_pos": 0.0, "clip": 0.0},
        {"gamma_neg": 2.0, "gamma_pos": 0.5, "clip": 0.2, "label_smoothing": 0.1},
        {"gamma_neg": 0.5, "gamma_pos": 0.0, "eps": 1e-4},
        {"gamma_neg": 7.0, "gamma_pos": 3.0},
    ],
    "smooth_l1_loss": [{"beta": 0.0}, {"beta": 0.3}],
}


def _row(name: str) -> Row:
    function = getattr(MF, name)
    own = signature(function).parameters
    factors = tuple(factor for factor in ("weight", "pos_weight") if factor in own)
    variants = [{}, *VARIANTS.get(name, [])]
    return Row(function, variants, factors, catalogue.LOSSES[name].classification)


LOSSES = {name: _row(name) for name in catalogue.KERNELS["pointwise"]}


@dataclass(frozen=True)
class Setting:
    """A shape, a layout, and which operands come along."""

    name: str
    shape: tuple[int, ...]
    target: str | torch.dtype = "soft"  # "soft" or "hard" in the dtype of the input, or a dtype
    missing: float = 0.0  # share of NaN in a floating target, of -1 in a signed one
    factors: dict[str, str] = field(default_factory=dict)  # name: "full", "task", "row" or "scalar"
    layout: str = "contiguous"  # or "transposed", "strided"
    values: tuple[float, ...] | None = None  # the logits are among them
    rounding: bool = False  # factors of many bits, so that multiplying by them rounds


EXTREME = (0.0, 0.0, 88.0, -88.0, 104.0, -104.0, 1e4, -1e4)
NOT_FINITE = (torch.inf, -torch.inf, torch.nan, 1.0, -2.0, 0.0)

SETTINGS = [
    Setting("plain", (37, 40)),
    Setting("nan", (37, 40), "hard", 0.3),
    Setting("int8", (64, 12), torch.int8, 0.3),
    Setting("all_missing", (9, 5), "hard", 1.0),
    Setting("mask", (13, 7), "soft", 0.2, {"mask": "full"}),
    Setting("mask_per_task", (13, 7), torch.bool, 0, {"mask": "task", "task_weight": "task"}),
    Setting("mask_per_row", (13, 7), torch.int64, 0.2, {"mask": "row", "sample_weight": "row"}),
    Setting("weights", (33, 24), "hard", 0.2, {"weight": "full", "pos_weight": "task"}),
    Setting("rounding", (14, 8), "hard", 0.2, {"weight": "full"}, rounding=True),
    Setting(
        "everything",
        (70, 5),
        "soft",
        0.2,
        {
            "mask": "full",
            "weight": "row",
            "pos_weight": "full",
            "task_weight": "task",
            "sample_weight": "row",
        },
    ),
    Setting("everything_wide", (2, 5000), "soft", 0.2, {"weight": "task", "mask": "full"}),
    Setting("extreme", (40, 30), "soft", 0.1, {"weight": "scalar"}, values=EXTREME),
    Setting("extreme_hard", (40, 30), torch.int8, 0.1, {"pos_weight": "scalar"}, values=EXTREME),
    Setting("not_finite", (12, 10), "soft", 0.2, values=NOT_FINITE),
    Setting("not_finite_hard", (12, 10), torch.int8, 0.2, values=NOT_FINITE),
    Setting("float32_target", (9, 6), torch.float32, 0.2),
    Setting("uint8", (9, 6), torch.uint8),
    Setting("int16", (9, 6), torch.int16, 0.2),
    Setting("int32", (9, 6), torch.int32, 0.2),
    Setting("one_task", (1001, 1), "hard", 0.2, {"sample_weight": "row"}),
    Setting("one_row", (1, 67), "soft", 0.2, {"task_weight": "task"}),
    Setting("one_element", (1, 1)),
    Setting("one_weight", (1, 1), torch.int8, 0, {"weight": "scalar", "pos_weight": "scalar"}),
    Setting("odd_tail", (257, 3), torch.int8, 0.2),
    Setting("no_rows", (0, 4), "hard", 0, {"weight": "full", "task_weight": "task"}),
    Setting("no_tasks", (4, 0), "hard", 0, {"sample_weight": "row"}),
    Setting("scalar", (), "hard"),
    Setting("vector", (19,), "soft", 0.2, {"sample_weight": "row", "mask": "full"}),
    Setting("deep", (2, 3, 4, 5), "soft", 0.2, {"weight": "task", "sample_weight": "row"}),
    Setting("deep_empty", (2, 0, 3), "hard"),
    Setting("transposed", (21, 10), "soft", 0.2, {"weight": "full"}, "transposed"),
    Setting(
        "strided", (21, 10), torch.int8, 0.2, {"mask": "full", "task_weight": "task"}, "strided"
    ),
    Setting("long_rows", (33, 1000), "hard", 0.2, {"mask": "full", "pos_weight": "task"}),
    Setting(
        "column_tiles",
        (40, 2100),
        torch.int8,
        0.2,
        {"weight": "full", "pos_weight": "row", "sample_weight": "row"},
    ),
    Setting("many_rows", (4099, 40), torch.int8, 0.3, {"task_weight": "task"}),
]


class Inputs(NamedTuple):
    """The tensors of a case."""

    logits: Tensor
    target: Tensor
    factors: dict[str, Tensor]

    def named(self) -> dict[str, Tensor]:
        return {"input": self.logits, "target": self.target, **self.factors}

    def replace(self, named: dict[str, Tensor]) -> Inputs:
        factors = {name: named[name] for name in self.factors}
        return Inputs(named["input"], named["target"], factors)

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        return self.replace({name: change(tensor) for name, tensor in self.named().items()})

    def double(self) -> Inputs:
        return self.map(lambda t: t.double() if t.is_floating_point() else t)


@dataclass(frozen=True)
class Case(Runnable):
    """One loss with keyword arguments, in one setting."""

    loss: str
    variant: int
    setting: Setting

    REDUCTIONS = REDUCTIONS
    MULTIPLIERS = ("weight", "sample_weight", "task_weight")

    def __str__(self) -> str:
        return f"{self.loss}-{self.variant}-{self.setting.name}"

    @property
    def row(self) -> Row:
        return LOSSES[self.loss]

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> Inputs:
        """Returns the case's tensors, the same values for every dtype but for rounding."""
        setting, generator = self.setting, self.generator()

        def random(shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

        logits = 3 * torch.randn(setting.shape, generator=generator, dtype=torch.float64)
        if setting.values:
            values = torch.tensor(setting.values, dtype=torch.float64)
            logits = values[torch.randint(len(values), setting.shape, generator=generator)]
        target = self._target(random, dtype)
        factors = {}
        for name, spread in setting.factors.items():
            if name not in ("mask", "task_weight", "sample_weight", *self.row.factors):
                continue
            shape = _factor_shape(name, spread, setting.shape)
            # Powers of two by default: their products are exact, whatever the order.
            factor = random(shape, 0.2, 2)
            factor = factor if setting.rounding else factor.log2().round().exp2()
            factors[name] = factor > 0.6 if name == "mask" else factor.to(dtype)
        inputs = Inputs(logits.to(dtype), target, factors)
        return inputs.map(lambda t: lay_out(t.to(device), setting.layout))

    def _target(self, random: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
        setting, classification = self.setting, self.row.classification
        kind = setting.target
        whole = not isinstance(kind, str) and not kind.is_floating_point
        missing = random(setting.shape) < setting.missing
        if classification:
            target = random(setting.shape)
            target = (target > 0.6).double() if whole or kind == "hard" else target
        else:
            low = -4 if kind in SIGNED or not whole else 0
            target = random(setting.shape, low, 4)
            target = target.floor() if whole else target
        if not whole:
            return target.masked_fill(missing, torch.nan).to(
                dtype if isinstance(kind, str) else kind
            )
        return (target.masked_fill(missing, -1) if kind in SIGNED else target).to(kind)

    def __call__(self, inputs: Inputs, **options: Any) -> Any:
        """Runs the public function."""
        options = {**self.row.variants[self.variant], **inputs.factors, **options}
        return self.row.function(inputs.logits, inputs.target, **options)

    def values(self, inputs: Inputs, **options: Any) -> dict[str, Tensor]:
        """Returns the loss, the per-task losses and the counts."""
        loss, tasks = self(inputs, return_tasks=True, **options)
        return {"loss": loss, "task_loss": tasks.loss, "count": tasks.count}


def _factor_shape(name: str, spread: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name == "sample_weight":
        return (torch.Size(shape[:-1] if len(shape) > 1 else shape).numel(),)
    if spread == "row":
        return (*shape[:-1], 1)
    return {"full": shape, "task": shape[-1:] if len(shape) > 1 else (1,), "scalar": ()}[spread]


PLAIN = Setting("plain", (37, 40))
CASES = [Case(loss, 0, setting) for loss in LOSSES for setting in SETTINGS]
CASES += [
    Case(loss, variant, setting)
    for loss, row in LOSSES.items()
    for variant in range(1, len(row.variants))
    for setting in SETTINGS
    if setting.name
    in ("plain", "everything", "extreme", "extreme_hard", "not_finite", "not_finite_hard", "int8")
]


each_loss = pytest.mark.parametrize("loss", LOSSES)


def cases(*settings: str) -> list[Case]:
    """Returns the first variant of every pointwise loss in the settings of these names."""
    return [c for c in CASES if c.variant == 0 and c.setting.name in settings]


def all_cases(*settings: str) -> list[Case | RowCase]:
    """Returns the first variant of every loss of every family in the settings of these names."""
    rows = [c for c in ROW_CASES if c.variant == 0 and c.setting.name in settings]
    return [*cases(*settings), *rows]
