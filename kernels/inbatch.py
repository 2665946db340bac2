"""What the in-batch losses do with a tile, in Triton: the six functions of mtlfast/ops/inbatch.py.

They run inside one opaque op, so they are plain functions. Splits of the work follow from shapes
alone: nothing is benchmarked inside a user's call, and all GPUs add in the same order.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from . import inbatch_kernels as kernels
from . import mining_kernels as mining
from .launch import WARP

_WARPS = 128 // WARP
_BLOCK = 128  # columns of a tile at once
_PROGRAMS = 2048  # walk a tile: 16 for each multiprocessor of a large GPU
_POSITIVES = 16  # and _BLOCK negatives are compared at once
_NEAR = {"OWNERS": 32, "OTHERS": 32, "WIDTH": 64}  # the block of near_kernel
_NEAR_PROGRAMS = 512  # their partial sums take up to 4 MB
_DENOMINATORS = {"nonzero": 1, "mean": 2}


def _split(length: int, block: int, most: int) -> tuple[int, int]:
    """Returns (length of a split, number of splits), at most `most` of them, in whole blocks."""
    span = block * triton.cdiv(triton.cdiv(length, block), max(most, 1))
    return span, triton.cdiv(length, span)


def _lanes(width: int) -> int:
    return min(triton.next_power_of_2(max(width, 1)), 1024)


def _mining(params: Sequence[float]) -> tuple[bool, bool, bool, bool]:
    """Returns whether mining is hard, is semihard, distances squared and the margin soft."""
    return params[0] == 1, params[0] == 2, bool(params[2]), bool(params[3])


def inbatch_units(x: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows, width = x.shape
    if not normalize:
        units = x.float()
        return units, units.new_ones(rows), units.square().sum(1)
    units = torch.empty_like(x, dtype=torch.float32)
    reciprocal, square = units.new_empty(rows), units.new_empty(rows)
    if rows:
        with torch.cuda.device_of(x):
            kernels.units_kernel[(rows,)](
                x, units, reciprocal, square, width, _lanes(width), num_warps=_WARPS
            )
    return units, reciprocal, square


def inbatch_mine(
    tile: Tensor,
    near: Tensor | None,
    stats: Tensor,
    x: Tensor,
    x_square: Tensor,
    x_labels: Tensor,
    y: Tensor,
    y_square: Tensor,
    y_labels: Tensor,
    first: int,
    own: bool,
    shared: bool,
    loss: str,
    params: Sequence[float],
) -> None:
    rows, columns = tile.shape
    contrastive = loss == "batch_contrastive_loss"
    hard, semihard, squared, soft = (
        (False, False, bool(params[2]), False) if contrastive else _mining(params)
    )
    listed = not contrastive and not hard
    span, splits = _split(columns, _BLOCK, triton.cdiv(_PROGRAMS, rows))
    grid = (rows, splits)
    # Of one split, the sums are the stats.
    out = stats[first : first + rows]
    parts = out if splits == 1 else stats.new_empty((rows, splits, *stats.shape[1:]))
    counts = tile.new_empty((rows, splits), dtype=torch.int32) if listed else None
    labels = (x_labels, y_labels)
    shape = (first, len(x), columns)
    words = len(x_labels)
    if hard and near is not None:
        near.zero_()
    with torch.cuda.device_of(tile):
        kernels.distance_kernel[grid](
            tile,
            None if hard else near,
            counts,
            parts if contrastive else None,
            x,
            x_square,
            x_labels,
            y,
            y_square,
            y_labels,
            *shape,
            x.shape[1],
            words,
            span,
            *(params[:2] if contrastive else (0.0, 0.0)),
            own,
            shared,
            squared,
            _BLOCK,
            16,
            num_warps=_WARPS,
        )
        if hard:
            mining.hard_kernel[(rows,)](
                tile,
                near,
                stats,
                *labels,
                *shape,
                words,
                params[1],
                own,
                shared,
                soft,
                squared,
                4 * _BLOCK,
                num_warps=_WARPS,
            )
        elif listed:
            ordered = torch.empty_like(tile)
            place = None if near is None else torch.empty_like(tile, dtype=torch.int32)
            positives = counts.new_empty(rows)
            mining.partition_kernel[grid](
                tile,
                counts,
                ordered,
                place,
                positives,
                *labels,
                *shape,
                words,
                span,
                own,
                shared,
                _BLOCK,
                num_warps=_WARPS,
            )
            mining.triplet_kernel[grid](
                ordered,
                place,
                positives,
                tile,
                parts,
                columns,
                columns - own,
                params[1],
                semihard,
                soft,
                squared,
                _POSITIVES,
                _BLOCK,
                num_warps=_WARPS,
            )
    if splits > 1 and not hard:
        torch.sum(parts, 1, out=out)


def inbatch_totals(stats: Tensor, like: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    sums = stats.sum(0)
    column = _DENOMINATORS.get(reduction)
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
            *params[:2],
            own,
            shared,
            bool(params[2]),
            _BLOCK,
            num_warps=_WARPS,
        )


def _add_near(
    tile: Tensor, near: Tensor, own: Tensor, other: Tensor, grad: Tensor, strides: tuple[int, int]
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
            other,
            out,
            owners,
            len(other),
            width,
            *strides,
            span,
            splits == 1,
            **_NEAR,
            num_warps=_WARPS,
        )
    if splits > 1:
        grad.add_(out.sum(0))


def inbatch_near(
    tile: Tensor,
    near: Tensor,
    x: Tensor,
    y: Tensor,
    x_grad: Tensor | None,
    y_grad: Tensor | None,
    first: int,
    radial: bool,
    dense: bool,
) -> None:
    rows, columns = tile.shape
    near, x = near[:rows], x[first : first + rows]
    if x_grad is not None:
        x_grad = x_grad[first : first + rows]
        _add_near(tile, near, x, y, x_grad, (columns, 1))
    if y_grad is not None:
        _add_near(tile, near, y, x, y_grad, (1, columns))
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
                num_warps=_WARPS,
            )
