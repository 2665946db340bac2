"""Arguments of the losses on rows of embeddings: checked, flattened to (N, D), and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlfast.functional.checks import (
    check_choice,
    check_embeddings,
    check_number,
    check_real,
    check_sequence,
    check_tensor,
    fail,
    in_autocast,
    legacy_reduction,
    traces_gradients,
    uses_transforms,
)
from mtlfast.ops import reference_ops
from mtlfast.ops.autograd import Rows
from mtlfast.ops.backends import NAMES, select
from mtlfast.ops.catalogue import LOSSES, compute_dtype

MOST_LEVELS = 31  # of the fused backends


def check_margin(margin: float | Tensor, low: float, inclusive: bool) -> None:
    """Checks a number; a tensor's values are not checked."""
    if not isinstance(margin, Tensor):
        check_number("margin", margin, low, inclusive=inclusive)


def check_hierarchy(
    levels: Sequence[Tensor], margins: Sequence[float]
) -> tuple[list[Tensor], list[float]]:
    """Returns the levels, and what each margin has more than the next."""
    levels = check_sequence("levels", levels, "tensors")
    margins = check_sequence("margins", margins, "numbers")
    if len(levels) < 2:
        fail(f"levels must hold at least 2 tensors; got {len(levels)}.")
    if len(margins) != len(levels) - 1:
        fail(f"margins must hold {len(levels) - 1}, one less than levels; got {len(margins)}.")
    for k, margin in enumerate(margins):
        check_number(f"margins[{k}]", margin)
    gaps = [m - n for m, n in zip(margins, [*margins[1:], 0.0], strict=True)]
    if not all(gap > 0 for gap in gaps):
        fail(f"margins must decrease and stay above 0; got {margins}.")
    return levels, gaps


def _check_rows(tensors: Mapping[str, Tensor], broadcasts: bool) -> tuple[Any, torch.dtype]:
    """Returns the shape and the dtype that all rows share."""
    first, anchor = next(iter(tensors.items()))
    check_embeddings(first, anchor, None, first)
    dtype = anchor.dtype
    for name, tensor in tensors.items():
        check_embeddings(name, tensor, anchor.device, first)
        if tensor.dim() == 0 or tensor.shape[-1] == 0:
            fail(f"{name} must be (N, D) rows of at least one element; got {tuple(tensor.shape)}.")
        dtype = torch.promote_types(dtype, tensor.dtype)
    shape = anchor.shape
    for name, tensor in tensors.items():
        if tensor.shape == anchor.shape:
            continue
        if broadcasts and tensor.dim() == anchor.dim():
            try:
                shape = torch.broadcast_shapes(shape, tensor.shape)
                continue
            except RuntimeError:
                pass
        fail(
            f"{name} must have the shape of {first}, {tuple(anchor.shape)}; "
            f"got {tuple(tensor.shape)}."
        )
    return shape, dtype


def _flatten(tensor: Tensor, shape: torch.Size, dtype: torch.dtype, rows: int) -> Tensor:
    """Returns (N, D) rows, the elements of each side by side: a view where strides allow it."""
    tensor = tensor.to(dtype)
    if tensor.shape != shape:
        tensor = tensor.expand(shape)
    if tensor.dim() != 2:
        tensor = tensor.reshape(rows, shape[-1])
    return tensor if tensor.stride(1) == 1 or shape[-1] == 1 else tensor.contiguous()


def _per_row(
    name: str, tensor: Tensor, first: Tensor, lead: torch.Size, rows: int, single: bool
) -> Tensor:
    """Returns (N,) values, one per row; a single one, where allowed, is the same for all."""
    check_tensor(name, tensor, first.device, "the rows")
    check_real(name, tensor)
    if single and tensor.numel() == 1:
        return tensor.reshape(()).expand(rows)
    if tensor.shape != lead and tensor.shape != (rows,):
        fail(f"{name} must have shape {tuple(lead)}, one per row; got {tuple(tensor.shape)}.")
    return tensor if tensor.dim() == 1 else tensor.reshape(rows)


def _scalar(name: str, value: Tensor | float, like: Tensor, compute: torch.dtype) -> Tensor:
    if not isinstance(value, Tensor):
        check_number(name, value)
        return like.new_full((), value, dtype=compute)
    check_tensor(name, value, like.device, "the rows")
    check_real(name, value)
    if value.numel() != 1:
        fail(f"{name} must be a number or hold one; got shape {tuple(value.shape)}.")
    return value.to(compute).reshape(())


def rows(
    name: str,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Any],
    reduction: str,
    *,
    size_average: bool | None = None,
    reduce: bool | None = None,
    same: Tensor | None = None,
    sample_weight: Tensor | None = None,
    scale: Tensor | float | None = None,
    bias: Tensor | float | None = None,
    backend: str,
    fused: str | None = None,
    broadcasts: bool = False,
) -> Tensor:
    """Returns the loss; see the public functions. `fused` says why only the reference has it.

    Of the parameters, a margin may be a tensor.
    """
    loss = LOSSES[name]
    reduction = legacy_reduction(size_average, reduce, reduction)
    check_choice("reduction", reduction, loss.reductions)
    check_choice("backend", backend, NAMES)
    shape, dtype = _check_rows(tensors, broadcasts)
    first = next(iter(tensors.values()))
    device = first.device.type
    autocast = in_autocast(dtype, device)
    if autocast and reduction == "none":
        dtype = torch.float32
    compute = compute_dtype(dtype)
    ops = select(backend, device, dtype, "rows")
    if fused:
        if backend not in ("auto", "reference"):
            raise RuntimeError(f"backend={backend!r} can't run this: {fused}; use 'reference'.")
        ops = None

    lead = shape[:-1]
    count = lead.numel()
    flat = [_flatten(tensor, shape, dtype, count) for tensor in tensors.values()]
    if same is not None:
        same = _per_row("same", same, first, lead, count, single=False)
        same = same if same.dtype == torch.bool else same > 0
    margin = parameters.get("margin")
    if not isinstance(margin, Tensor):
        margin = None
    else:
        parameters = {**parameters, "margin": 0.0}
        margin = _per_row("margin", margin, first, lead, count, single=True).detach().to(compute)
    if sample_weight is not None:
        sample_weight = _per_row("sample_weight", sample_weight, first, lead, count, single=False)
        sample_weight = sample_weight.to(compute)
    scale = None if scale is None else _scalar("scale", scale, first, compute)
    bias = None if bias is None else _scalar("bias", bias, first, compute)

    factors = (same, margin, sample_weight, scale, bias)
    settings = loss.settings(parameters, reduction)
    learned = [factor for factor in factors[2:] if factor is not None]
    if ops is None or uses_transforms() or traces_gradients(learned):
        value, _ = reference_ops.rows(flat, *factors, *settings)
    elif torch.is_grad_enabled() and any(t.requires_grad for t in (*flat, *learned)):
        value = Rows.apply(settings, ops, *factors, *flat)
    else:
        value, _ = ops.rows_forward(flat, *factors, *settings)
    if reduction == "none":
        return value if value.shape == lead else value.reshape(lead)
    return value if dtype == compute or autocast else value.to(dtype)
