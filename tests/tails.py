"""Hard labels far from the decision: classification losses whose exact values mpmath knows.

The rule: value and gradient keep a relative accuracy of 1e-5 down to 1e-30 in float32 and float64,
and one eps in the normal range of the 16-bit types.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import mpmath
import torch
from torch import Tensor

import mtlfast.functional as MF

TINY = 1e-30
RELATIVE = 1e-5
# Near 0 a step is a fraction; far out, logits are what every dtype holds.
LOGITS = sorted({s * x for s in (-1, 1) for x in (0.0, 0.25, 0.75, 1.5, 2.75, *range(2, 81, 2))})
LOGITS += [-2.84375, -2.5, -2.0, -17.75, -19.0, 17.75, 19.0]
NEAR_EDGE = 0.1  # in logits: there a correctly rounded sigmoid of float32 gives no digits either


class Tail(NamedTuple):
    """One classification loss with keyword arguments."""

    loss: str
    options: dict[str, float]

    def __str__(self) -> str:
        return "-".join([self.loss, *(f"{k}={v:g}" for k, v in self.options.items())])

    def kinks(self, label: int) -> list[float]:
        """Returns the logits at which a clamp sets in: the slope of one side is not the other's."""
        if self.loss != "asymmetric_loss":
            return []
        logit = lambda p: float(mpmath.log(p / (1 - mpmath.mpf(p))))  # noqa: E731
        clip, eps = self.options["clip"], self.options["eps"]
        if label:
            return [logit(eps)]
        return [logit(clip)] if clip else [-logit(eps)]

    def logits(self, label: int) -> Tensor:
        far = [x for x in LOGITS if all(abs(x - k) >= NEAR_EDGE for k in self.kinks(label))]
        return torch.tensor(far, dtype=torch.float64)

    def formula(self, label: int, x: mpmath.mpf) -> mpmath.mpf:
        p, q = 1 / (1 + mpmath.exp(-x)), 1 / (1 + mpmath.exp(x))
        hit, miss = (p, q) if label else (q, p)
        if self.loss == "binary_cross_entropy_with_logits":
            return -mpmath.log(hit) * (self.options.get("pos_weight", 1) if label else 1)
        if self.loss == "sigmoid_focal_loss":
            alpha = mpmath.mpf(self.options["alpha"])
            balance = 1 if alpha < 0 else alpha if label else 1 - alpha
            return -balance * mpmath.log(hit) * miss ** self.options["gamma"]
        if not label:
            hit = min(hit + mpmath.mpf(self.options["clip"]), mpmath.mpf(1))
        gamma = self.options["gamma_pos" if label else "gamma_neg"]
        return -mpmath.log(max(hit, mpmath.mpf(self.options["eps"]))) * (1 - hit) ** gamma

    def __call__(
        self, x: Tensor, label: int, labels: torch.dtype | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns the elements' values and gradients as the package computes them.

        `labels`: the dtype of the target; None is that of x.
        """
        x = x[:, None].detach().clone().requires_grad_()
        keywords: dict[str, Any] = dict(self.options)
        if "pos_weight" in keywords:
            keywords["pos_weight"] = x.new_tensor(keywords["pos_weight"])
        target = torch.full_like(x, label, dtype=labels, requires_grad=False)
        function = getattr(MF, self.loss)
        value = function(x, target, reduction="none", **keywords, **options)
        (slope,) = torch.autograd.grad(value.sum(), x)
        return value.detach()[:, 0], slope[:, 0]


def _asymmetric(**options: float) -> Tail:
    return Tail("asymmetric_loss", {"clip": 0.0, "eps": 1e-8, **options})


GAMMAS = (0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 4.0, 7.0, 8.5)
TAILS = [
    Tail("binary_cross_entropy_with_logits", {}),
    Tail("binary_cross_entropy_with_logits", {"pos_weight": 3.0}),
    *(Tail("sigmoid_focal_loss", {"alpha": 0.25, "gamma": g}) for g in GAMMAS),
    Tail("sigmoid_focal_loss", {"alpha": -1.0, "gamma": 2.0}),
    *(_asymmetric(gamma_neg=g, gamma_pos=g, clip=c) for g in GAMMAS for c in (0.0, 0.05)),
    _asymmetric(gamma_neg=4.0, gamma_pos=1.0, clip=0.05),
    _asymmetric(gamma_neg=4.0, gamma_pos=0.0, clip=0.05),
    _asymmetric(gamma_neg=1.0, gamma_pos=2.5, clip=0.2),
    _asymmetric(gamma_neg=2.0, gamma_pos=1.0, eps=1e-4),
    _asymmetric(gamma_neg=2.0, gamma_pos=1.0, eps=1e-30),
]


@functools.cache
def exact(tail_index: int, label: int) -> tuple[Tensor, Tensor]:
    """Returns the case's values and gradients in float64, rounded from 60 digits."""
    tail = TAILS[tail_index]
    values, slopes = [], []
    with mpmath.workdps(60):
        for x in tail.logits(label).tolist():
            values.append(float(tail.formula(label, mpmath.mpf(x))))
            slopes.append(float(mpmath.diff(lambda x: tail.formula(label, x), mpmath.mpf(x))))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(slopes, dtype=torch.float64)


def assert_digits(name: str, x: Tensor, got: Tensor, exact: Tensor) -> None:
    """Checks `got` against the rule for its dtype."""
    info = torch.finfo(got.dtype)
    if got.dtype in (torch.float32, torch.float64):
        allowed = RELATIVE * exact.abs() + TINY
    else:
        normal = exact.abs() >= info.tiny
        allowed = torch.where(normal, info.eps * exact.abs(), info.tiny)
    error = (got.double() - exact).abs()
    bad = ~(error <= allowed)
    if bad.any():
        worst = int((error / allowed).nan_to_num(torch.inf).argmax())
        raise AssertionError(
            f"{name}: {int(bad.sum())} of {bad.numel()}; the worst at logit {float(x[worst])}: "
            f"got {float(got[worst])!r}, exact {float(exact[worst])!r}"
        )


def assert_tail(
    index: int,
    label: int,
    dtype: torch.dtype,
    device: str,
    backend: str,
    labels: torch.dtype | None = None,
) -> None:
    """Checks one case, label and dtype on one backend."""
    tail = TAILS[index]
    x = tail.logits(label)
    assert torch.equal(x.to(dtype).double(), x), "every dtype must hold the logits"
    got = tail(x.to(device, dtype), label, labels, backend=backend)
    for name, one, other in zip(("value", "gradient"), got, exact(index, label), strict=True):
        assert_digits(f"{tail} label {label} {name}", x, one.cpu(), other)
