"""The t of the accuracy rule: how large that is which an output is made of, in float64.

It is |what multiplies an element linearly|, for classification losses; 0 for regression; and times
the distances whose difference is taken, for hinges and triplets. A sum has the sum of its terms'
scales, and what their absolute values exceed its own by. The reference itself says what multiplies
what: it runs with its element losses, distances and norms replaced by ones that compute the same,
but whose derivatives are absolute values, so that nothing cancels on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy
import torch
from torch import Tensor

from mtlfast.ops import reference, reference_ops
from mtlfast.ops.catalogue import LOSSES

INSIDE = ("input", "target", "pos_weight")  # leaves of the element losses; all else multiplies them


class _Absolute(torch.autograd.Function):
    """Forward the value; backward, to each input, |gradient| times a slope."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: Sequence[Tensor], *_: Tensor) -> Tensor:
        ctx.save_for_backward(*slopes)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        size = gradient.abs()
        slopes = (s for s in ctx.saved_tensors)
        wide = (size.reshape(*size.shape, *[1] * (s.dim() - size.dim())) * s for s in slopes)
        return None, None, *wide


def _slopes(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns the function's value, and the sizes of its derivatives; each is of one sample."""
    with torch.enable_grad():
        given = [tensor.detach().requires_grad_() for tensor in inputs]
        value = function(*given)
        found = torch.autograd.grad(value.sum(), given, materialize_grads=True)
    return value.detach(), *(slope.abs() for slope in found)


@contextmanager
def _elements(loss: str) -> Iterator[None]:
    """Replaces an element loss; it and its derivatives are larger by 1 for classification."""
    record = LOSSES[loss]
    floor = 1.0 if record.classification else 0.0

    def sized(x: Tensor, y: Tensor, **given: Any) -> Tensor:
        factors = {name: t for name, t in given.items() if isinstance(t, Tensor)}
        params = {name: v for name, v in given.items() if name not in factors}
        inputs = [tensor.expand(x.shape) for tensor in (x, y, *factors.values())]

        def compute(x: Tensor, y: Tensor, *rest: Tensor) -> Tensor:
            return record.reference(x, y, **params, **dict(zip(factors, rest, strict=True)))

        value, *slopes = _slopes(compute, inputs)
        return _Absolute.apply(floor + value.abs(), [floor + s for s in slopes], *inputs)

    with mock.patch.dict(LOSSES, {loss: replace(record, reference=sized)}):
        yield


def _positive(difference: Tensor) -> Tensor:
    """Returns the norm of the difference, 1 where it is 0."""
    norm = difference.norm(dim=-1, keepdim=True)
    return torch.where(norm == 0, 1, norm)


@contextmanager
def _distances(probe: Tensor, terms: int, squared: bool) -> Iterator[None]:
    """Replaces distances, of which a loss holds differences of so many, and norms.

    The gradient of `probe` becomes the sum over distances of |dl/dd| d; of the cosine form, the
    derivative by its logit. A mean of the terms of a difference takes the place of the largest,
    which is never less.
    """
    usual = {
        name: getattr(reference, name)
        for name in ("unit", "minkowski_distance", "squared_distance")
    }

    def sized(name: str, probed: bool = True) -> Callable[..., Tensor]:
        def distance(a: Tensor, b: Tensor, *options: float) -> Tensor:
            a, b = torch.broadcast_tensors(a, b)
            d, *slopes = _slopes(lambda a, b: usual[name](a, b, *options), [a, b])
            if d.dim() == 2:  # of matrix products, that is of a and b and not of their difference
                chain = slopes[0].norm(dim=-1, keepdim=True) / _positive(a - b)
                larger = (chain * torch.maximum(a.abs(), b.abs())).detach()
                typical = slopes[0].square().mean(-1, keepdim=True).sqrt()
                slopes = [s.maximum(larger.minimum(typical)) for s in slopes]
            size = d / (2 if squared and name == "minkowski_distance" else 1) * probed
            shares = [slope / terms for slope in (*slopes, size)]
            return _Absolute.apply(d, shares, a, b, probe.expand(d.shape))

        return distance

    def unit(x: Tensor) -> Tensor:
        u, norm = usual["unit"](x.detach()), x.detach().norm(dim=-1, keepdim=True)
        inverse = torch.where(norm < reference.SMALLEST_NORM, 0, 1 / norm)
        return _Unit.apply(u, inverse, x)

    def pairs(x: Tensor, y: Tensor, squared: bool) -> Tensor:
        return changed["squared_distance" if squared else "minkowski_distance"](x[:, None], y[None])

    def contrastive_loss(x1: Tensor, x2: Tensor, **given: Any) -> Tensor:
        given |= {name: spread(given[name], x1) for name in ("scale", "bias") if name in given}
        if given["distance"] != "cosine":
            return contrastive.reference(x1, x2, **given)
        given["bias"] = given["bias"] + probe if "bias" in given else probe
        with mock.patch.object(reference, "squared_distance", sized("squared_distance", False)):
            return contrastive.reference(x1, x2, **given)

    def spread(scalar: Tensor, like: Tensor) -> Tensor:
        each = scalar.expand(like.shape[:-1])
        return _Absolute.apply(each, [torch.ones_like(each)], each)

    contrastive = LOSSES["contrastive_loss"]
    probing = replace(contrastive, reference=contrastive_loss)
    changed = {name: sized(name) for name in ("minkowski_distance", "squared_distance")}
    with (
        mock.patch.dict(LOSSES, contrastive_loss=probing),
        mock.patch.multiple(reference, unit=unit, **changed),
        mock.patch.multiple(reference_ops, unit=unit, distances=pairs),
    ):
        yield


class _Unit(torch.autograd.Function):
    """Rows of norm 1, and what of a gradient g may cancel on its way through: half of both terms of
    (g - (g . u) u) / |x|.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, inverse: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(u.abs(), inverse)
        return u.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        u, inverse = ctx.saved_tensors
        size = gradient.abs()
        return None, None, inverse / 2 * (size + (size * u).sum(-1, keepdim=True) * u)


def of_elements(case: Any, inputs: Any, exact: dict[str, Tensor], **options: Any) -> dict:
    """Returns the scales of a pointwise case's results; inputs and results are in float64."""
    sized = {n: t.abs() if n in case.MULTIPLIERS else t for n, t in inputs.named().items()}
    given, leaves = case.leaves(inputs.replace(sized))
    with _elements(case.loss):
        values = case.values(given, **options).items()
        found = {name: value for name, value in values if value.is_floating_point()}
        upstream = [case.upstream(output) for output in found.values()]
        rest = {"retain_graph": True, "materialize_grads": True}
        signed, absolute = (
            torch.autograd.grad([*found.values()], [*leaves.values()], given, **rest)
            for given in (upstream, [u.abs() for u in upstream])
        )
    # Coefficients of both outputs may cancel, but not those of several elements.
    for name, one, other in zip(leaves, signed, absolute, strict=True):
        found[f"d {name}"] = one if name in INSIDE else other
    if "weight" in leaves and options["reduction"] == "mean" and LOSSES[case.loss].weighted_mean:
        # The derivative of the denominator is a term too: L / W, where L = S / W.
        total = case.values(inputs, **options | {"reduction": "sum"})["loss"]
        share = exact["loss"].square() / total * inputs.logits.numel()
        found["d weight"] = found["d weight"].abs() + share / leaves["weight"].numel()
    return {name: (t.detach() - exact[name].abs()).clamp(min=0) for name, t in found.items()}


def of_rows(case: Any, inputs: Any, exact: dict[str, Tensor], **options: Any) -> dict:
    """Returns the scales of the results of a case of rows; inputs and results are in float64."""
    given, leaves = case.leaves(inputs)
    lead = inputs.rows["x0"].shape[:-1]
    probe = torch.zeros(lead.numel(), dtype=torch.float64, requires_grad=True)
    probe = probe.to(inputs.rows["x0"].device)
    terms = 1 if case.loss == "contrastive_loss" else 2
    with _distances(probe, terms, bool(case.options.get("squared"))):
        (loss,) = case.values(given, **options).values()
        once, upstream = torch.ones_like(loss), case.upstream(loss).abs()
        (own,) = torch.autograd.grad(loss, probe, once, retain_graph=True, materialize_grads=True)
        per_row, *found = torch.autograd.grad(
            loss, [probe, *leaves.values()], upstream, materialize_grads=True
        )
    scales = {f"d {name}": t for name, t in zip(leaves, found, strict=True)}
    if case.options.get("distance") == "cosine":  # nothing is subtracted, but the cosine is rounded
        slope = per_row.abs() * inputs.factors.get("scale", torch.ones(())).abs()
        for name, row in inputs.rows.items():
            norm = row.norm(dim=-1).clamp(min=reference.SMALLEST_NORM)
            scales[f"d {name}"] += (slope.reshape(norm.shape) / norm).unsqueeze(-1)
        own, per_row = 0 * own, 0 * per_row
    if "d sample_weight" in scales:
        weight = inputs.factors["sample_weight"]
        scales["d sample_weight"] = per_row.reshape(weight.shape) / weight
    own = own.reshape(loss.shape) if loss.numel() == own.numel() else own.sum()
    return {"loss": own, **scales}


def of_batch(loss: Any, batch: Any, **options: Any) -> list[Tensor]:
    """Returns the scales of an in-batch loss and its gradients, in float64."""
    probe = torch.zeros((), dtype=torch.float64, device=batch.embeddings.device)
    probe.requires_grad_()
    terms = 1 if "contrastive" in loss.function.__name__ else 2
    given, leaves = batch.leaves()
    with _distances(probe, terms, squared=False):
        value = loss(given, **options)
        return list(torch.autograd.grad(value, [probe, *leaves], materialize_grads=True))


@contextmanager
def truth() -> Iterator[None]:
    """Lets the reference in float64 know what rows of norm 1 lose in rounding to it.

    Their differences are all that is left of rows that nearly coincide, and would be no better than
    the float64 results that are judged by them.
    """
    lost: dict[int, Tensor] = {}
    kept = []  # so that no other tensor has their id
    usual = reference.unit

    def unit(x: Tensor) -> Tensor:
        u = usual(x)
        wide = x.detach().cpu().numpy().astype(numpy.longdouble)
        norm = numpy.sqrt((wide**2).sum(-1, keepdims=True))
        wide /= numpy.maximum(norm, reference.SMALLEST_NORM)
        rest = wide - u.detach().cpu().numpy()
        lost[id(u)] = torch.from_numpy(rest.astype(numpy.float64)).to(u.device)
        kept.append(u)
        return u

    def apart(a: Tensor, b: Tensor) -> Tensor:
        rest = lost[id(a)] - lost[id(b)] if id(a) in lost and id(b) in lost else 0.0
        return (a - b) + rest

    def sized(name: str) -> Callable[..., Tensor]:
        usual = getattr(reference, name)
        return lambda a, b, *options: usual(apart(a, b), torch.zeros_like(a), *options)

    def pairs(x: Tensor, y: Tensor, squared: bool) -> Tensor:
        a, b = x[:, None].expand(len(x), *y.shape), y[None].expand(len(x), *y.shape)
        for wide, narrow, where in ((a, x, (slice(None), None)), (b, y, (None,))):
            if id(narrow) in lost:
                lost[id(wide)] = lost[id(narrow)][where]
        kept.extend((a, b))
        return changed["squared_distance" if squared else "minkowski_distance"](a, b)

    changed = {name: sized(name) for name in ("minkowski_distance", "squared_distance")}
    with (
        mock.patch.multiple(reference, unit=unit, **changed),
        mock.patch.multiple(reference_ops, unit=unit, distances=pairs),
    ):
        yield
