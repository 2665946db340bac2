"""The in-batch losses: one op, a loop over tiles of anchors, and what a backend does with a tile.

The op `mtlfast_inbatch::forward` is opaque to torch.compile, which would else specialise on N. Its
matrix products are torch's own; the rest are six functions that a backend provides (the native
extension; kernels/inbatch.py for Triton). N anchors x are compared with M others y, which are the
anchors themselves (`own`) unless there is a reference set. D is the width, F the compute dtype:
float64 for float64 embeddings and, natively on the CPU, for those not normalised, else float32. All
tensors are contiguous. Only what is said to be changed is changed; results repeat bit for bit,
whatever the number of threads, from the same matrix products; the host asks for nothing. Losses,
their parameters and reductions come as catalogue.py numbers and packs them.

inbatch_units(Tensor x, bool normalize)
    -> (Tensor units, Tensor rest, Tensor reciprocal, Tensor square)
    x (N, D) of any floating dtype. With r = 1/|x|: units = r x and reciprocal = r; but x / 1e-12
    and 0 where |x| < 1e-12. Without `normalize` units = x and reciprocal = 1. rest is what units
    lost in rounding to F, r x - units, (N, D); or (0, D) where nothing is lost: without
    `normalize`, and in float64. square = |units|^2. (N, D), (N, D) or (0, D), (N,), (N,) in F.

inbatch_mine(Tensor(a!) tile, Tensor(b!)? near, Tensor(c!) stats,
             Tensor x, Tensor x_rest, Tensor x_square, Tensor x_labels,
             Tensor y, Tensor y_rest, Tensor y_square, Tensor y_labels,
             int first, bool own, bool shared, int loss, float[] params) -> ()
    tile (R, M) holds x[first + r] . y[m] for the R anchors from `first` on, in F. Their distances
    follow: d^2 = x_square + y_square - 2 tile, at least 0; where d^2 < 1e-2 (x_square + y_square),
    a *near* pair, d^2 is computed again from differences, (x - y) + (x_rest - y_rest). d is the
    square root, or d^2 itself if squared.
    Labels are (K, N) and (K, M) int64. Anchor and other match if their labels are equal (K = 1),
    or, if `shared`, if any of the K words have a bit in common. Positives match, negatives do not;
    with `own`, an anchor is neither to itself.
    params of "batch_triplet_loss": [mining, margin, squared, soft], mining 0 all, 1 hard, 2
    semihard. Triplets (a, p, n) of the anchor: all; the farthest positive and nearest negative, of
    equals the first; or those with 0 < d_an - d_ap <= margin. Their loss is h = d_ap - d_an +
    margin where h > 0, else 0; if soft, softplus(h). Row first + r of stats, (N, 1, 3) float64,
    becomes [sum of losses, number of positive losses (all triplets if soft), number of triplets].
    If `near` is given, (R, M) uint8, a gradient is wanted: tile becomes V = W dd/|x - y|, where
    W = d(sum of losses)/dd, and d/dx of d is (x - y) / d (0 at d = 0) or 2 (x - y): V = W / d or
    2 W. V is 0 where a pair is neither, or left out. near becomes 1 for near pairs, else 0. For
    hard mining all pairs with V != 0 count as near, and V elsewhere is undefined.
    params of "batch_contrastive_loss": [pos_margin, neg_margin, squared]. stats is (N, 2, 3): for
    positives, h = d - pos_margin, then negatives, h = neg_margin - d: [sum of max(h, 0), number of
    h > 0, number of pairs]. If `near` is given it is filled and tile becomes d.
    A NaN among the distances of an anchor makes its sums NaN.

inbatch_totals(Tensor stats, Tensor like, int reduction) -> (Tensor loss, Tensor coefficient)
    Per term (the second dimension of stats), the sum over anchors over a denominator: 1 for "sum",
    the number of positive losses for "nonzero", of triplets or pairs for "mean", but at least 1.
    loss () is their sum; coefficient (T,) is 1 / denominator. Both in the dtype of `like`.

inbatch_weigh(Tensor(a!) tile, Tensor x_labels, Tensor y_labels, Tensor coefficient,
              int first, bool own, bool shared, float[] params) -> ()
    Contrastive: tile becomes V of the loss from d; W = coefficient[0] for a positive with h > 0,
    -coefficient[1] for a negative with h > 0.

inbatch_near(Tensor(a!) tile, Tensor near, Tensor x, Tensor x_rest, Tensor y, Tensor y_rest,
             Tensor(b!)? x_grad, Tensor(c!)? y_grad, int first, bool radial, bool dense) -> ()
    For near pairs, adds V (x - y) to their row of x_grad (N, D) and subtracts it from that of
    y_grad (M, D), from differences as above: in x V - V y the digits would cancel. If `dense`, V
    of near pairs becomes 0, and if `radial`, the sums of what is left are added: x_grad[first + r]
    += x sum_m V, y_grad[m] += y sum_r V. (Projecting normalised rows takes that out again.) A
    matrix product with V follows. x_grad and y_grad may be one tensor.

inbatch_project(Tensor(a!) grad, Tensor units, Tensor reciprocal, Tensor? coefficient, float factor,
                bool normalize) -> ()
    The gradient through the normalisation: with g = coefficient[0] factor grad, grad becomes
    reciprocal (g - (g . units) units), or g without `normalize`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mtlfast.ops.backends import BACKENDS
from mtlfast.ops.catalogue import compute_dtype, numbered

# Elements of a tile, at most; but at least one anchor.
TILE = 1 << 20
_LIBRARY = torch.library.Library("mtlfast_inbatch", "DEF")
_LIBRARY.define(
    "forward(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
    "int loss, float[] params, bool normalize, int reduction, str backend, bool need, "
    "bool need_ref) -> (Tensor loss, Tensor grad, Tensor ref_grad)"
)


def _pack(labels: Tensor) -> Tensor:
    """Returns (N,) labels as (1, N), multi-hot (N, L) ones as bits of (ceil(L / 64), N) words."""
    if labels.dim() == 1:
        return labels.to(torch.int64).contiguous().unsqueeze(0)
    bits = torch.arange(64, device=labels.device)
    parts = (labels > 0).split(64, 1) if labels.shape[1] else (labels,)
    return torch.stack([(part.long() << bits[: part.shape[1]]).sum(1) for part in parts])


@contextmanager
def _exact_products(device: str) -> Iterator[None]:
    """Keeps float32 matrix products in float32, whatever autocast and TF32 settings say."""
    kind = "cuda" if device == "cuda" else "mkldnn"
    before = torch._C._get_fp32_precision_getter(kind, "matmul")
    reduced = before not in ("ieee", "none")
    if reduced:
        torch._C._set_fp32_precision_setter(kind, "matmul", "ieee")
    try:
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                yield
        else:
            yield
    finally:
        if reduced:  # by its own setting, or by one it inherits
            torch._C._set_fp32_precision_setter(kind, "matmul", "none")
            if torch._C._get_fp32_precision_getter(kind, "matmul") != before:
                torch._C._set_fp32_precision_setter(kind, "matmul", before)


class _Pass:
    """One call: its operands, its scratch, and the steps of the loop over tiles."""

    def __init__(
        self,
        ops: Any,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
        loss: int,
        params: Sequence[float],
        normalize: bool,
        need: bool,
        need_ref: bool,
    ) -> None:
        self.ops, self.normalize = ops, normalize
        self.own = ref_embeddings is None
        record = numbered("inbatch", loss)
        self.contrastive = record.name == "batch_contrastive_loss"
        self.hard = record.unpack(params).get("mining") == "hard"
        self.x, x_rest, self.x_scale, x_square = ops.inbatch_units(
            embeddings.contiguous(), normalize
        )
        x_labels = _pack(labels)
        anchors = (self.x, x_rest, x_square, x_labels)
        if ref_embeddings is None or ref_labels is None:
            self.y, self.y_scale = self.x, self.x_scale
            y_rest, y_labels, others = x_rest, x_labels, anchors
        else:
            self.y, y_rest, self.y_scale, y_square = ops.inbatch_units(
                ref_embeddings.contiguous(), normalize
            )
            y_labels = _pack(ref_labels)
            others = (self.y, y_rest, y_square, y_labels)
        rows, columns = len(self.x), len(self.y)
        height = max(min(rows, TILE // max(columns, 1)), 1)
        self.starts = range(0, rows if columns else 0, height)
        self.tile = self.x.new_empty((height, columns))
        self.near = None
        if need or need_ref:
            self.near = self.x.new_empty((height, columns), dtype=torch.uint8)
        terms = 2 if self.contrastive else 1
        make = self.x.new_empty if columns else self.x.new_zeros
        self.stats = make((rows, terms, 3), dtype=torch.float64)
        self.x_grad = torch.zeros_like(self.x) if need else None
        self.y_grad = self.x_grad
        if not self.own:
            self.y_grad = torch.zeros_like(self.y) if need_ref else None
        # V is symmetric then, and the other half of the gradient the same again.
        self.twice = self.contrastive and self.own
        self.labels = (x_labels, y_labels)
        self.rows = (self.x, x_rest, self.y, y_rest)
        self.sides = (*anchors, *others)
        self.settings = (self.own, labels.dim() == 2)
        self.loss = (loss, params)

    def part(self, first: int) -> Tensor:
        return self.tile[: len(self.x) - first]

    def mine(self, first: int) -> None:
        """Fills the tile of the anchors from `first` on, and their row of the sums."""
        part = self.part(first)
        torch.mm(self.x[first : first + len(part)], self.y.t(), out=part)
        near = self.near
        self.ops.inbatch_mine(
            part, near, self.stats, *self.sides, first, *self.settings, *self.loss
        )

    def weigh(self, first: int, coefficient: Tensor) -> None:
        """Turns the tile's distances into weights, for the contrastive loss."""
        part, params = self.part(first), self.loss[1]
        self.ops.inbatch_weigh(part, *self.labels, coefficient, first, *self.settings, params)

    def differentiate(self, first: int) -> None:
        """Adds what the tile's weights make of the gradients."""
        part, x_grad = self.part(first), self.x_grad
        y_grad = None if self.twice else self.y_grad
        dense = not self.hard
        self.ops.inbatch_near(
            part, self.near, *self.rows, x_grad, y_grad, first, not self.normalize, dense
        )
        if dense and x_grad is not None:
            x_grad[first : first + len(part)].addmm_(part, self.y, alpha=-1)
        if dense and y_grad is not None:
            y_grad.addmm_(part.t(), self.x[first : first + len(part)], alpha=-1)

    def run(self, reduction: int) -> Tensor:
        """Returns the loss; the gradients are complete then."""
        coefficient = None
        if self.contrastive:
            # The denominators are known only after all tiles, and V needs them: of several tiles,
            # the distances are computed twice.
            for first in self.starts:
                self.mine(first)
            value, weights = self.ops.inbatch_totals(self.stats, self.x, reduction)
            for first in self.starts if self.near is not None else ():
                if len(self.starts) > 1:
                    self.mine(first)
                self.weigh(first, weights)
                self.differentiate(first)
        else:
            for first in self.starts:
                self.mine(first)
                if self.near is not None:
                    self.differentiate(first)
            value, coefficient = self.ops.inbatch_totals(self.stats, self.x, reduction)
        if self.x_grad is not None:
            factor = 2.0 if self.twice else 1.0
            self.project(self.x_grad, self.x, self.x_scale, coefficient, factor)
        if self.y_grad is not None and not self.own:
            self.project(self.y_grad, self.y, self.y_scale, coefficient, 1.0)
        return value

    def project(
        self, grad: Tensor, units: Tensor, scale: Tensor, coefficient: Tensor | None, factor: float
    ) -> None:
        """Takes a gradient through the normalisation, in place."""
        self.ops.inbatch_project(grad, units, scale, coefficient, factor, self.normalize)


def _forward(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    loss: int,
    params: Sequence[float],
    normalize: bool,
    reduction: int,
    backend: str,
    need: bool,
    need_ref: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss and its gradients for both sets of rows, empty where not needed."""
    compute = compute_dtype(embeddings.dtype)
    record = BACKENDS.get(backend)
    if record is None or record.ops is None:
        raise ValueError(f"backend must be one with ops of its own; got {backend!r}.")
    if record.wide and not normalize:
        embeddings = embeddings.double()
        ref_embeddings = None if ref_embeddings is None else ref_embeddings.double()
    with _exact_products(embeddings.device.type):
        given = (embeddings, labels, ref_embeddings, ref_labels)
        work = _Pass(record.ops("inbatch"), *given, loss, params, normalize, need, need_ref)
        value = work.run(reduction)
    grads = (work.x_grad if need else None, work.y_grad if need_ref else None)
    first, second = (value.new_empty(0) if grad is None else grad for grad in grads)
    return value.to(compute), first.to(compute), second.to(compute)


_LIBRARY.impl("forward", _forward, "CompositeExplicitAutograd")
forward = torch.ops.mtlfast_inbatch.forward.default


@torch.library.register_fake("mtlfast_inbatch::forward", lib=_LIBRARY)
def _(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    compute = compute_dtype(embeddings.dtype)
    need, need_ref = rest[-2:]
    grad = embeddings.shape if need else (0,)
    ref_grad = ref_embeddings.shape if need_ref and ref_embeddings is not None else (0,)
    new = embeddings.new_empty
    return new((), dtype=compute), new(grad, dtype=compute), new(ref_grad, dtype=compute)
