"""Where a loss runs: backend, device and dtype."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from accuracy import FOLDER
from cases import CASES
from row_cases import ROW_CASES

import mtlfast
from mtlfast.ops.backends import _reason

NARROW = (torch.float32, torch.bfloat16, torch.float16)
BY_ELEMENT = ("pointwise", "rows")  # families of which each test takes both or either


class Backend(NamedTuple):
    """A backend on a device; Triton's interpreter on the CPU has tests of its own."""

    name: str
    device: str

    families: tuple[str, ...] = BY_ELEMENT

    def __str__(self) -> str:
        return f"{self.name}-{self.device}"

    def runs(self, dtype: torch.dtype) -> bool:
        """Returns whether it has all of the families' losses in that dtype."""
        return not any(_reason(self.name, self.device, dtype, f) for f in self.families)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        return tuple(dtype for dtype in (*NARROW, torch.float64) if self.runs(dtype))


def _marked(backend: Backend, *values: Any) -> Any:
    marks = [pytest.mark.gpu] if backend.device == "cuda" else []
    name = "-".join(str(value).replace("torch.", "") for value in (backend, *values))
    return pytest.param(backend, *values, marks=marks, id=name)


def with_families(*families: str) -> list[Backend]:
    """Returns the backends that have these families here, whatever the dtype."""
    found = [
        Backend(name, device, families)
        for name, devices in mtlfast.available_backends().items()
        for device in sorted(devices)
        if (name, device) != ("triton", "cpu")
    ]
    return [backend for backend in found if backend.dtypes]


def _each(backends: list[Backend]) -> Any:
    return pytest.mark.parametrize("backend", [_marked(backend) for backend in backends])


def _fused(backends: list[Backend]) -> list[Backend]:
    return [backend for backend in backends if backend.name != "reference"]


BACKENDS = with_families(*BY_ELEMENT)
FUSED = _fused(BACKENDS)
each_backend, each_fused_backend = _each(BACKENDS), _each(FUSED)
each_inbatch_backend = _each(with_families("inbatch"))
each_fused_inbatch_backend = _each(_fused(with_families("inbatch")))


# What differs most from one dtype to another, each with all of them; others with two in turn.
_EVERY_DTYPE = ("plain", "everything", "extreme", "extreme_hard", "not_finite", "tight", "short")


def _dtypes(backend: Backend, turn: int, case: Any) -> tuple[torch.dtype, ...]:
    """All of them or one in turn, on a GPU two; all if `make accuracy` asks for them.

    Of Triton, which compiles anew for every case and dtype, one in turn.
    """
    if backend.name == "triton":
        return (NARROW[turn % 3],)
    on_gpu = backend.device == "cuda"
    every = case.variant == 0 and (on_gpu or case.setting.name in _EVERY_DTYPE)
    step = 1 if every or FOLDER is not None else 2 if on_gpu else 4
    return backend.dtypes[turn % step :: step]


each_run = pytest.mark.parametrize(
    "backend, dtype, case",
    [
        _marked(backend, dtype, case)
        for backend in FUSED
        for turn, case in enumerate([*CASES, *ROW_CASES])
        for dtype in _dtypes(backend, turn, case)
    ],
)
