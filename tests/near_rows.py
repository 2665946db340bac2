"""Normalised rows that nearly coincide: cases, exact results, and what they are held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mpmath
import torch
from torch import Tensor

import mtlfast.functional as MF

SPREADS = (1.0, 0.3, 1e-2, 1e-3, 1e-5, 1e-7)
# |a . dL/da| / (|a| |dL/da|): a loss that does not see the length of a row has no slope along it.
RADIAL = {torch.float32: 4 * torch.finfo(torch.float32).eps, torch.float64: 4e-13}


class Near(NamedTuple):
    """A normalised loss: its function, its number of rows and the arguments beside them."""

    name: str
    function: Callable[..., Tensor]
    rows: int
    options: dict[str, Any]
    labels: bool = False

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])

    def __call__(self, rows: Sequence[Tensor], **options: Any) -> Tensor:
        options = {**self.options, **options}
        if self.labels:
            same = torch.arange(len(rows[0]), device=rows[0].device) % 2 == 0
            return self.function(*rows, same, reduction="none", **options)
        if "margins" in options:
            return self.function(rows[0], rows[1:], reduction="none", **options)
        return self.function(*rows, reduction="none", **options)


def _triplet(**options: Any) -> Near:
    options = {"normalize": True, "margin": 3.0, "eps": 0.0, **options}
    return Near("triplet_margin_loss", MF.triplet_margin_loss, 3, options)


def _contrastive(**options: Any) -> Near:
    return Near("contrastive_loss", MF.contrastive_loss, 2, options, labels=True)


NEAR = [
    _triplet(),
    _triplet(eps=1e-6),
    _triplet(squared=True),
    _triplet(soft=True),
    _triplet(swap=True),
    _triplet(swap=True, squared=True),
    _triplet(p=1.5, squared=True),
    Near("normalized_triplet_loss", MF.normalized_triplet_loss, 3, {"margin": 5.0}),
    Near("normalized_triplet_loss", MF.normalized_triplet_loss, 3, {"squared": False, "margin": 3}),
    *(
        Near(
            "hierarchical_triplet_loss",
            MF.hierarchical_triplet_loss,
            levels + 1,
            {"margins": margins, "squared": squared},
        )
        for levels, margins in ((2, [5.0]), (3, [9.0, 4.5]), (5, [20.0, 15.0, 10.0, 5.0]))
        for squared in (True, False)
    ),
    _contrastive(normalize=True, margin=3.0),
    _contrastive(distance="cosine"),
]
LIE = ("together", "pairs", "others")


def rows_of(near: Near, spread: float, lie: str, dtype: torch.dtype, shape: tuple[int, int]):
    """Returns rows `spread` of their length apart: all ("together"), two by two, or all but the
    first, the anchor, which lies elsewhere.
    """
    generator = torch.Generator().manual_seed(near.rows)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    centres = [normal() for _ in range(near.rows)]
    which = {
        "together": [0] * near.rows,
        "pairs": [k // 2 for k in range(near.rows)],
        "others": [0, *[1] * (near.rows - 1)],
    }[lie]
    scales = 2.0 ** torch.randint(-2, 3, (near.rows, shape[0], 1), generator=generator)
    return [
        (scales[k] * (centres[which[k]] + spread * normal())).to(dtype) for k in range(near.rows)
    ]


def computed(near: Near, rows: Sequence[Tensor], **options: Any) -> list[Tensor]:
    """Returns the values and the gradients."""
    leaves = [row.detach().clone().requires_grad_() for row in rows]
    value = near(leaves, **options)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


def assert_no_radial_slope(rows: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for k, (row, gradient) in enumerate(zip(rows, gradients, strict=True)):
        x, g = row.double().cpu(), gradient.double().cpu()
        along = (x * g).sum(1).abs()
        allowed = RADIAL[row.dtype] * x.norm(dim=1) * g.norm(dim=1)
        if not (along <= allowed).all():
            worst = float((along / allowed).max())
            raise AssertionError(f"row {k}: {worst:.3g} times what is allowed points along it")


def scale_of(near: Near, rows: Sequence[Tensor]) -> list[Tensor]:
    """Returns what an error is measured by beside the result: 1 for a value, whose terms are
    distances of unit rows and margins; for a gradient through a normalisation 1 / |row|.
    """
    value = torch.ones(len(rows[0]), dtype=torch.float64)
    return [value, *(1 / row.double().norm(dim=1, keepdim=True) for row in rows)]


def extended(near: Near, rows: Sequence[Tensor]) -> list[Tensor]:
    """Returns values and gradients to all digits of float64, by mpmath."""
    found = [[] for _ in range(len(rows) + 1)]
    with mpmath.workdps(50):
        for i in range(len(rows[0])):
            x = [[mpmath.mpf(v) for v in row[i].tolist()] for row in rows]
            norms = [mpmath.sqrt(mpmath.fdot(v, v)) for v in x]
            u = [[e / n for e in v] for v, n in zip(x, norms, strict=True)]
            value, weights = FORMULAS[str(near)](i, [_squared(u[0], v) for v in u[1:]])
            found[0].append(float(value))
            gradients = [[mpmath.mpf(0)] * len(u[0]) for _ in u]
            for k, weight in enumerate(weights, 1):
                for j in range(len(u[0])):
                    t = 2 * weight * (u[0][j] - u[k][j])
                    gradients[0][j] += t
                    gradients[k][j] -= t
            for k, (v, n, g) in enumerate(zip(u, norms, gradients, strict=True)):
                along = mpmath.fdot(v, g)
                found[k + 1].append([float((a - along * b) / n) for a, b in zip(g, v, strict=True)])
    return [torch.tensor(part, dtype=torch.float64) for part in found]


def _squared(a: Sequence[mpmath.mpf], b: Sequence[mpmath.mpf]) -> mpmath.mpf:
    return mpmath.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True))


# Value and derivatives by the squared distances of those losses that mpmath is asked for.
def _of_triplet(margin: float) -> Callable[[int, list], tuple]:
    def formula(i: int, squares: list) -> tuple:
        h = squares[0] - squares[1] + margin
        on = mpmath.mpf(h >= 0) / 2
        return on * h, [on, -on]

    return formula


def _of_distances(margin: float) -> Callable[[int, list], tuple]:
    def formula(i: int, squares: list) -> tuple:
        near, far = (mpmath.sqrt(s) for s in squares)
        h = near - far + margin
        on = mpmath.mpf(h >= 0)
        return on * h, [on / (2 * near), -on / (2 * far)]

    return formula


def _of_contrastive(margin: float) -> Callable[[int, list], tuple]:
    def formula(i: int, squares: list) -> tuple:
        d = mpmath.sqrt(squares[0])
        if i % 2 == 0:
            return squares[0] / 2, [mpmath.mpf(1) / 2]
        h = max(margin - d, mpmath.mpf(0))
        return h * h / 2, [-h / (2 * d)]

    return formula


def _of_cosine(i: int, squares: list) -> tuple:
    plus = 1 / (1 + mpmath.exp(squares[0] / 2 - 1))
    residual = 1 - plus if i % 2 == 0 else -plus
    return residual**2 / 2, [residual * plus * (1 - plus) / 2]


FORMULAS = {
    "triplet_margin_loss-normalize=True-margin=3.0-eps=0.0": _of_distances(3.0),
    "normalized_triplet_loss-margin=5.0": _of_triplet(5.0),
    "contrastive_loss-normalize=True-margin=3.0": _of_contrastive(3.0),
    "contrastive_loss-distance=cosine": _of_cosine,
}


def as_decided(
    near: Near, rows: Sequence[Tensor], results: list[Tensor], exact: list[Tensor]
) -> list[Tensor]:
    """Returns results as if float64 had told which of d_an and d_pn is the smaller.

    Where they are so near that rounding in float32 tells, it may be either, or both by halves.
    """
    if not near.options.get("swap"):
        return results
    one, other = near._replace(options=near.options | {"swap": False}), [1, 0, 2]
    wide = [row.double() for row in rows]
    units = [row / row.norm(dim=1, keepdim=True) for row in wide]
    an, pn = ((units[k] - units[2]).norm(dim=1) for k in (0, 1))
    undecided = (an - pn).abs() < 8 * torch.finfo(torch.float32).eps * (an + pn)
    _, *by_anchor = computed(one, wide, backend="reference")
    _, *swapped = computed(one, [wide[k] for k in other], backend="reference")
    by_positive = [swapped[k] for k in other]
    ways = [torch.cat(way, 1) for way in (by_anchor, by_positive)]
    ways = torch.stack([*ways, sum(ways) / 2, torch.cat(exact[1:], 1)])
    found = torch.cat(results[1:], 1).double()
    size = torch.cat([r.norm(dim=1, keepdim=True).expand_as(r) for r in wide], 1)
    nearest = ((found - ways).abs() * size).amax(2).argmin(0)
    moved = found + ways[-1] - ways[nearest, torch.arange(len(found))]
    found = torch.where(undecided[:, None], moved, found).to(results[1].dtype)
    return [results[0], *found.chunk(len(rows), 1)]


def assert_rule(name: str, got: Tensor, plain: Tensor, exact: Tensor, scale: Tensor) -> None:
    """Checks max e <= max(2 max p, k eps), e and p being |error| / (scale + |exact|)."""
    allowed = 1e-13 if got.dtype == torch.float64 else 8 * torch.finfo(torch.float32).eps
    e, p = (((t.double() - exact).abs() / (scale + exact.abs())).max() for t in (got, plain))
    assert e <= max(2 * p, allowed), f"{name}: {float(e):.3g}, of plain PyTorch {float(p):.3g}"
