"""Where a loss runs: backend, device and dtype."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from cases import CASES
from row_cases import ROW_CASES

import mtlfast

NARROW = (torch.float32, torch.bfloat16, torch.float16)


class Backend(NamedTuple):
    """A backend on a device; Triton's interpreter on the CPU has tests of its own."""

    name: str
    device: str

    def __str__(self) -> str:
        return f"{self.name}-{self.device}"

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        wide = self.name == "reference" or self == ("native", "cpu")
        return (*NARROW, torch.float64) if wide else NARROW


def _marked(backend: Backend, *values: Any) -> Any:
    marks = [pytest.mark.gpu] if backend.device == "cuda" else []
    name = "-".join(str(value).replace("torch.", "") for value in (backend, *values))
    return pytest.param(backend, *values, marks=marks, id=name)


BACKENDS = [
    Backend(name, device)
    for name, devices in mtlfast.available_backends().items()
    for device in sorted(devices)
    if (name, device) != ("triton", "cpu")
]
FUSED = [backend for backend in BACKENDS if backend.name != "reference"]
each_backend = pytest.mark.parametrize("backend", [_marked(b) for b in BACKENDS])
each_fused_backend = pytest.mark.parametrize("backend", [_marked(b) for b in FUSED])


def _dtypes(backend: Backend, turn: int) -> tuple[torch.dtype, ...]:
    """All of them; of Triton, which compiles anew for every case and dtype, one in turn."""
    return (NARROW[turn % 3],) if backend.name == "triton" else backend.dtypes


each_run = pytest.mark.parametrize(
    "backend, dtype, case",
    [
        _marked(backend, dtype, case)
        for backend in FUSED
        for turn, case in enumerate([*CASES, *ROW_CASES])
        for dtype in _dtypes(backend, turn)
    ],
)
