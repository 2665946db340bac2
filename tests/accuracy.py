"""The accuracy rule: never noticeably less exact than plain PyTorch, anywhere; and its worst cases.

`make accuracy` runs the tests of it over the whole product of cases and prints how near to its
bounds each loss comes: `python tests/accuracy.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

NARROW = (torch.float16, torch.bfloat16)
FOLDER = os.environ.get("MTLFAST_ACCURACY")  # where the worst cases are written, if anywhere


class Output(NamedTuple):
    """Which output of which loss is judged, for the table, and in which case."""

    loss: str
    backend: str
    inputs: torch.dtype
    name: str
    case: str

    def __str__(self) -> str:
        kind = str(self.inputs).removeprefix("torch.")
        return f"{self.name} of {self.loss} by {self.backend} in {kind}, {self.case}"


def tolerance(dtype: torch.dtype, inputs: torch.dtype) -> float:
    """Returns k eps: what is granted where plain PyTorch happens to be exact."""
    if dtype == torch.float64:
        return 1e-13
    k = 1 if dtype in NARROW else 64 if inputs in NARROW else 8
    return k * torch.finfo(dtype).eps


def deviations(
    got: Tensor, plain: Tensor, exact: Tensor, scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Returns e and p: the errors of `got` and `plain`, relative to scale + |exact|.

    Elements where plain PyTorch or float64 itself is not finite are left out, and so are those of
    which nothing but 0 is right, scale = exact = 0: there e is infinite unless `got` is 0.
    """
    got, plain, exact = got.double(), plain.double(), exact.double()
    size = torch.as_tensor(scale).to(exact) + exact.abs()
    counts = plain.isfinite() & exact.isfinite()
    assert size.expand(exact.shape)[counts].isfinite().all(), "a scale is not finite"
    e, p = ((one - exact).abs() / size for one in (got, plain))
    e = torch.where(size > 0, e, torch.where(got == 0, 0.0, torch.inf))
    return e.nan_to_num(torch.inf)[counts], torch.where(size > 0, p, 0.0)[counts]


def bounds(p: Tensor, granted: float) -> tuple[float, float]:
    """Returns what the greatest e and the root of the mean e^2 may be."""
    return max(2 * p.max().item(), granted), 2 * _rms(p) + granted / 8


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


_worst: dict[tuple[str, ...], tuple[float, str]] = {}


def assert_accurate(
    output: Output, got: Tensor, plain: Tensor, exact: Tensor, scale: Tensor | float
) -> None:
    """Checks ``max e <= max(2 max p, k eps)`` and ``rms e <= 2 rms p + k eps / 8``.

    Args:
        output: what is judged.
        got: the tensor to judge.
        plain: what plain PyTorch computes in the dtype of `got`.
        exact: the same in float64.
        scale: t, how large what an element is made of may be beside the element; see scales.py.
    """
    assert got.shape == plain.shape == exact.shape, (str(output), got.shape, exact.shape)
    assert got.dtype == plain.dtype, (str(output), got.dtype, plain.dtype)
    odd = ~(plain.isfinite() & exact.isfinite())
    same = (got == plain) | (got.isnan() & plain.isnan())
    assert same[odd].all(), f"{output}: {got[odd & ~same][:3]}, not {plain[odd & ~same][:3]}"
    e, p = deviations(got, plain, exact, scale)
    if e.numel() == 0:
        return
    most, typical = bounds(p, tolerance(got.dtype, output.inputs))
    share = max(e.max().item() / most, _rms(e) / typical)
    _remember(output, share)
    _remember(output._replace(backend="reference"), max(p.max().item() / most, _rms(p) / typical))
    assert share <= 1, _told(output, got, plain, exact, scale, (most, typical))


def _told(
    output: Output,
    got: Tensor,
    plain: Tensor,
    exact: Tensor,
    scale: Tensor | float,
    allowed: tuple[float, float],
) -> str:
    e, p = deviations(got, plain, exact, scale)
    counts = plain.isfinite() & exact.isfinite()
    i = int(e.argmax())
    worst = [tensor[counts][i].item() for tensor in (got, plain, exact)]
    size = torch.as_tensor(scale).to(exact).expand(exact.shape)[counts][i].item()
    return (
        f"{output}: max e {e.max():.3g} of {allowed[0]:.3g}, rms e {_rms(e):.3g} of "
        f"{allowed[1]:.3g}; max p {p.max():.3g}, rms p {_rms(p):.3g}; the worst of {e.numel()} at "
        f"{counts.nonzero()[i].tolist()}: got {worst[0]}, plain {worst[1]}, exact {worst[2]}, "
        f"scale {size}"
    )


def _remember(output: Output, share: float) -> None:
    key = (output.loss, output.backend, str(output.inputs).removeprefix("torch."), output.name)
    if share >= _worst.get(key, (-1.0, ""))[0]:
        _worst[key] = share, output.case


def write() -> None:
    """Writes this process's worst cases, if a folder is named for them."""
    if FOLDER is not None and _worst:
        path = Path(FOLDER)
        path.mkdir(parents=True, exist_ok=True)
        rows = [[*key, *value] for key, value in _worst.items()]
        (path / f"{os.getpid()}.json").write_text(json.dumps(rows))


def table(folder: Path) -> tuple[str, bool]:
    """Returns the worst cases of all processes as a table, and whether all are allowed."""
    worst: dict[tuple[str, ...], tuple[float, str]] = {}
    for file in sorted(folder.glob("*.json")):
        for *key, share, case in json.loads(file.read_text()):
            if share >= worst.get(tuple(key), (-1.0, ""))[0]:
                worst[tuple(key)] = share, case
    head = ("loss", "backend", "inputs", "output", "e / allowed", "worst case")
    rows = [(*key, f"{share:.2f}", case) for key, (share, case) in sorted(worst.items())]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in (head, *rows)]
    return "\n".join(map(str.rstrip, lines)), all(share <= 1 for share, _ in worst.values())


if __name__ == "__main__":
    text, allowed = table(Path(sys.argv[1]))
    print(text)
    sys.exit(0 if allowed else "The accuracy rule is broken where e / allowed is above 1.")
