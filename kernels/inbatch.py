"""What the in-batch losses do with a tile, in Triton: the six functions of mtlfast/ops/inbatch.py.

They run inside one opaque op, so they are plain functions. Splits of the work follow from shapes
alone: nothing is benchmarked inside a user's call, and all GPUs add in the same order.
"""

from collections import namedtuple
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from . import inbatch_kernels as kernels
from .finish import REDUCTIONS
from .launch import options
from .mining_kernels import hard_kernel, partition_kernel, triplet_kernel

ALL, HARD, SEMIHARD = range(3)  # mining
# What a loss takes, in the order of its record.
Triplet = namedtuple("Triplet", "mining margin squared soft")
Contrastive = namedtuple("Contrastive", "pos_margin neg_margin squared")
LOSSES = {"batch_triplet_loss": Triplet, "batch_contrastive_loss": Contrastive}  # by number
_PARAMETERS = tuple(LOSSES.values())

_OPTIONS = options(128)
_BLOCK = 128  # columns of a tile at once
_PROGRAMS = 2048  # walk a tile: 16 for each multiprocessor of a large GPU
_POSITIVES = 16  # and _BLOCK negatives are compared at once
_NEAR = {"OWNERS": 32, "OTHERS": 32, "WIDTH": 64}  # the block of near_kernel
_NEAR_PROGRAMS = 512  # their partial sums take up to 4 MB
_DENOMINATORS = {"nonzero": 1, "mean": 2}  # columns of the stats


def _split(length: int, block: int, most: int) -> tuple[int, int]:
    """Returns (length of a split, number of splits), at most `most` of them, in whole blocks."""
    span = block * triton.cdiv(triton.cdiv(length, block), max(most, 1))
    return span, triton.cdiv(length, span)


def _lanes(width: int) -> int:
    return min(triton.next_power_of_2(max(width, 1)), 1024)


def _given(rest: Tensor) -> Tensor | None:
    # A pointer that is None costs the kernel nothing.
    return rest if rest.numel() else None


def inbatch_units(x: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, width = x.shape
    if not normalize:
        units = x.float()
        return units, units.new_empty(0, width), units.new_ones(rows), units.square().sum(1)
    units = torch.empty_like(x, dtype=torch.float32)
    rest = torch.empty_like(units)
    reciprocal, square = units.new_empty(rows), units.new_empty(rows)
    if rows:
        with torch.cuda.device_of(x):
            kernels.units_kernel[(rows,)](
                x, units, rest, reciprocal, square, width, _lanes(width), **_OPTIONS
            )
    return units, rest, reciprocal, square


def inbatch_mine(
    tile: Tensor,
    near: Tensor | None,
    stats: Tensor,
    x: Tensor,
    x_rest: Tensor,
    x_square: Tensor,
    x_labels: Tensor,
    y: Tensor,
    y_rest: Tensor,
    y_square: Tensor,
    y_labels: Tensor,
    first: int,
    own: bool,
    shared: bool,
    loss: int,
    params: Sequence[float],
) -> None:
    rows, columns = tile.shape
    given = _PARAMETERS[loss](*params)
    contrastive = isinstance(given, Contrastive)
    mining = None if contrastive else given.mining
    listed = mining in (ALL, SEMIHARD)
    margins = (given.pos_margin, given.neg_margin) if contrastive else (0.0, 0.0)
    pairs = (x_labels, y_labels, first, len(x), columns, len(x_labels))
    kind = (own, shared, given.squared != 0)
    span, splits = _split(columns, _BLOCK, triton.cdiv(_PROGRAMS, rows))
    # Of one split, the sums are the stats.
    sums = stats[first : first + rows]
    parts = sums if splits == 1 else stats.new_empty((rows, splits, *stats.shape[1:]))
    counts = tile.new_empty((rows, splits), dtype=torch.int32) if listed else None
    with torch.cuda.device_of(tile):
        kernels.distance_kernel[rows, splits](
            tile,
            None if mining == HARD else near,
            counts,
            parts if contrastive else None,
            x,
            _given(x_rest),
            x_square,
            y,
            _given(y_rest),
            y_square,
            x.shape[1],
            *pairs,
            span,
            *margins,
            *kind,
            _BLOCK,
            min(_lanes(x.shape[1]), 16),
            **_OPTIONS,
        )
        if mining == HARD:
            if near is not None:
                near.zero_()
            hard_kernel[rows,](
                tile, near, stats, *pairs, given.margin, *kind, given.soft != 0, 4 * _BLOCK,
                **_OPTIONS,
            )  # fmt: skip
            return
        if listed:
            _compare(tile, counts, near is not None, parts, pairs, span, kind, given)
    if splits > 1:
        torch.sum(parts, 1, out=sums)


def _compare(
    tile: Tensor,
    counts: Tensor,
    need: bool,
    parts: Tensor,
    pairs: tuple[Tensor | int, ...],
    span: int,
    kind: tuple[bool, bool, bool],
    given: Triplet,
) -> None:
    """Adds up all or the semihard triplets; the tile becomes V if there is a need for it."""
    own, shared, squared = kind
    columns = tile.shape[1]
    ordered = torch.empty_like(tile)
    place = torch.empty_like(tile, dtype=torch.int32) if need else None
    positives = counts.new_empty(len(tile))
    lists = (ordered, place, positives)
    partition_kernel[tuple(counts.shape)](
        tile, counts, *lists, *pairs, span, own, shared, _BLOCK, **_OPTIONS
    )
    triplet_kernel[tuple(counts.shape)](
        *lists, tile, parts, columns, columns - own, given.margin, given.mining == SEMIHARD,
        given.soft != 0, squared, _POSITIVES, _BLOCK, **_OPTIONS,
    )  # fmt: skip


def inbatch_totals(stats: Tensor, like: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    sums = stats.sum(0)
    column = _DENOMINATORS.get(REDUCTIONS[reduction])
    denominator = torch.ones_like(sums[:, 0]) if column is None else sums[:, column].clamp(min=1)
    loss = (sums[:, 0] / denominator).sum()
    return loss.to(like.dtype), denominator.reciprocal().to(like.dtype)


def inbatch_weigh(
    tile: Tensor,
    x_labels: Tensor,
    y_labels: Tensor,
    coefficient: Tensor,
    first: int,
    own: bool,
    shared: bool,
    params: Sequence[float],
) -> None:
    rows, columns = tile.shape
    given = Contrastive(*params)
    span, splits = _split(columns, _BLOCK, triton.cdiv(_PROGRAMS, rows))
    with torch.cuda.device_of(tile):
        kernels.weigh_kernel[(rows, splits)](
            tile,
            x_labels,
            y_labels,
            coefficient,
            first,
            x_labels.shape[1],
            columns,
            len(x_labels),
            span,
            given.pos_margin,
            given.neg_margin,
            own,
            shared,
            given.squared != 0,
            _BLOCK,
            **_OPTIONS,
        )


def _add_near(
    tile: Tensor,
    near: Tensor,
    own: Tensor,
    own_rest: Tensor,
    other: Tensor,
    other_rest: Tensor,
    grad: Tensor,
    strides: tuple[int, int],
) -> None:
    """Adds sum V (own - other) over near pairs to grad; strides are those of own and other."""
    owners, width = own.shape
    blocks = triton.cdiv(owners, _NEAR["OWNERS"]), triton.cdiv(width, _NEAR["WIDTH"])
    most = _NEAR_PROGRAMS // (blocks[0] * blocks[1])
    span, splits = _split(len(other), _NEAR["OTHERS"], most)
    out = grad if splits == 1 else grad.new_empty((splits, *grad.shape))
    with torch.cuda.device_of(tile):
        kernels.near_kernel[(*blocks, splits)](
            tile,
            near,
            own,
            _given(own_rest),
            other,
            _given(other_rest),
            out,
            owners,
            len(other),
            width,
            *strides,
            span,
            splits == 1,
            **_NEAR,
            **_OPTIONS,
        )
    if splits > 1:
        grad.add_(out.sum(0))


def inbatch_near(
    tile: Tensor,
    near: Tensor,
    x: Tensor,
    x_rest: Tensor,
    y: Tensor,
    y_rest: Tensor,
    x_grad: Tensor | None,
    y_grad: Tensor | None,
    first: int,
    radial: bool,
    dense: bool,
) -> None:
    rows, columns = tile.shape
    here = slice(first, first + rows)
    near, x, x_rest = near[:rows], x[here], x_rest[here]
    if x_grad is not None:
        x_grad = x_grad[here]
        _add_near(tile, near, x, x_rest, y, y_rest, x_grad, (columns, 1))
    if y_grad is not None:
        _add_near(tile, near, y, y_rest, x, x_rest, y_grad, (1, columns))
    if not dense:
        return
    tile.masked_fill_(near.view(torch.bool), 0)
    if radial and x_grad is not None:
        x_grad.addcmul_(x, tile.sum(1, keepdim=True))
    if radial and y_grad is not None:
        y_grad.addcmul_(y, tile.sum(0).unsqueeze(1))


def inbatch_project(
    grad: Tensor,
    units: Tensor,
    reciprocal: Tensor,
    coefficient: Tensor | None,
    factor: float,
    normalize: bool,
) -> None:
    rows, width = grad.shape
    if not normalize:
        grad.mul_(factor if coefficient is None else coefficient[0] * factor)
    elif rows:
        with torch.cuda.device_of(grad):
            kernels.project_kernel[(rows,)](
                grad,
                units,
                reciprocal,
                coefficient,
                factor,
                width,
                _lanes(width),
                **_OPTIONS,
            )
