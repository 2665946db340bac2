"""Where a loss runs (backend, device, dtype), and how exact it must be there."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from cases import CASES
from row_cases import ROW_CASES
from torch import Tensor

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


def assert_accurate(name: str, got: Tensor, plain: Tensor, exact: Tensor, slack: float = 1) -> None:
    """Checks, element by element, |got - exact| <= 2 |plain - exact| + slack eps (1 + |exact|).

    `plain` is what plain PyTorch computes in the dtype of `got`, `exact` the same in float64. Where
    plain PyTorch overflows, or float64 itself does, the results must be the same infinity or NaN.
    For float64 there is nothing better to compare with: 1e-13 stands for eps.
    """
    assert got.shape == plain.shape == exact.shape, (name, got.shape, exact.shape)
    assert got.dtype == plain.dtype, (name, got.dtype, plain.dtype)
    eps = slack * (1e-13 if got.dtype == torch.float64 else torch.finfo(got.dtype).eps)
    got, plain = got.double(), plain.double()
    error, allowed = (got - exact).abs(), 2 * (plain - exact).abs() + eps * (1 + exact.abs())
    same = (got == plain) | (got.isnan() & plain.isnan())
    bad = ~same & ~((error <= allowed) & allowed.isfinite())
    if bad.any():
        i = int((error / allowed).nan_to_num(torch.inf)[bad].argmax())
        worst = [t[bad][i].item() for t in (got, plain, exact, error, allowed)]
        raise AssertionError(
            f"{name}: {int(bad.sum())} of {bad.numel()} elements; the worst at "
            f"{bad.nonzero()[i].tolist()}: got {worst[0]}, plain {worst[1]}, exact {worst[2]}, "
            f"error {worst[3]:.3g} > {worst[4]:.3g}"
        )
