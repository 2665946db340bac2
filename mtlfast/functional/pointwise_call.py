"""Arguments of the pointwise losses: checked, broadcast to (N, T), and handed to a backend."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlfast.functional.checks import (
    FLOATING,
    INF,
    REAL,
    check_choice,
    check_flags,
    check_number,
    check_real,
    check_tensor,
    check_vector,
    fail,
    in_autocast,
    legacy_reduction,
    traces_gradients,
    uses_transforms,
)
from mtlfast.functional.typed import TaskLosses
from mtlfast.ops import reference_ops
from mtlfast.ops.autograd import OPERANDS, Pointwise
from mtlfast.ops.backends import NAMES, select
from mtlfast.ops.catalogue import LOSSES, Loss, compute_dtype


def _check_dtypes(names: Sequence[str], input: torch.dtype, target: torch.dtype) -> None:
    if input not in FLOATING:
        fail(
            f"{names[0]} must be float32, float64, bfloat16 or float16; got {input}: "
            "pass logits or predictions, not labels.",
            TypeError,
        )
    if target not in REAL:
        fail(f"{names[1]} must be floating, bool or an integer type; got {target}.", TypeError)


def _expand(name: str, tensor: Tensor, shape: torch.Size, flat: Sequence[int], like: str) -> Tensor:
    """Returns `tensor` broadcast to the input's own `shape`, as (N, T)."""
    if tensor.shape != shape:
        try:
            tensor = tensor.expand(shape)
        except RuntimeError:
            fail(
                f"{name} must broadcast to the shape of {like}, {tuple(shape)}; "
                f"got {tuple(tensor.shape)}."
            )
    return tensor if len(shape) == 2 else tensor.reshape(flat)


def _broadcast(
    names: Sequence[str], input: Tensor, target: Tensor, allowed: bool
) -> tuple[Tensor, Tensor]:
    try:
        together = torch.broadcast_tensors(input, target)
    except RuntimeError:
        allowed = False
    if not allowed:
        fail(
            f"{names[1]} must have the shape of {names[0]}, {tuple(input.shape)}; "
            f"got {tuple(target.shape)}."
        )
    warnings.warn(
        f"Using a target size ({target.size()}) that is different to the input size "
        f"({input.size()}). This will likely lead to incorrect results due to broadcasting. "
        "Please ensure they have the same size.",
        stacklevel=4,
    )
    return together[0], together[1]


def _operands(
    tensors: Sequence[Tensor | None],
    input: Tensor,
    shape: torch.Size,
    compute: torch.dtype,
    like: str,
) -> list[Tensor | None]:
    """Returns mask, weight, pos_weight, sample_weight, task_weight: checked, expanded, cast."""
    rows, tasks = input.shape
    prepared: list[Tensor | None] = []
    for name, tensor in zip(OPERANDS, tensors, strict=True):
        if tensor is not None:
            check_tensor(name, tensor, input.device, like)
            if name != "mask":
                check_real(name, tensor)
            elif tensor.dtype != torch.bool:
                fail(
                    f"mask must be bool, True where labelled; got {tensor.dtype}: "
                    "call mask.bool() first.",
                    TypeError,
                )
            if name == "mask":
                tensor = _expand(name, tensor, shape, input.shape, like)
            elif name == "sample_weight":
                tensor = check_vector(name, tensor, rows, "row").to(compute)
                tensor = tensor.unsqueeze(1).expand(rows, tasks)
            elif name == "task_weight":
                tensor = check_vector(name, tensor, tasks, "task").to(compute).contiguous()
            else:
                tensor = _expand(name, tensor.to(compute), shape, input.shape, like)
        prepared.append(tensor)
    return prepared


def _kept(target: Tensor, ignored: float, loss: Loss, mask: Tensor | None) -> Tensor | None:
    """Returns the mask, False also where the target is `ignored`."""
    if ignored != ignored or (ignored < 0 and loss.classification):
        return mask  # missing anyhow
    if target.dtype == torch.bool:
        held = ignored in (0, 1)
    elif target.is_floating_point():
        held = abs(ignored) == INF or abs(ignored) <= torch.finfo(target.dtype).max
    else:
        limits = torch.iinfo(target.dtype)
        held = limits.min <= ignored <= limits.max and ignored == int(ignored)
    if not held:  # by no target of this dtype
        return mask
    kept = target != (float(ignored) if target.is_floating_point() else ignored)
    return kept if mask is None else mask & kept


def _lay_out(value: Tensor, strides: Sequence[int]) -> Tensor:
    """Returns `value` with its dimensions in memory in the order of `strides`, as torch does."""
    order = sorted(range(value.dim()), key=lambda i: -strides[i])
    back = sorted(range(value.dim()), key=order.__getitem__)
    return value.permute(order).contiguous().permute(back)


def _without_kernel(target: Tensor, given: Sequence[Tensor], reduction: str) -> list[Tensor]:
    """Returns what gets its gradient from the reference: all but logits and task_weight, (T,)."""
    kernels = 1 if given and given[-1].dim() == 1 and reduction != "none" else 0
    return [target, *given[: len(given) - kernels]]


def pointwise(
    name: str,
    input: Tensor,
    target: Tensor,
    parameters: Mapping[str, float],
    reduction: str,
    *,
    label_smoothing: float = 0.0,
    ignore_index: float | None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    mask: Tensor | None,
    task_weight: Tensor | None,
    sample_weight: Tensor | None,
    return_tasks: bool,
    backend: str,
    broadcasts: bool = False,
    names: Sequence[str] = ("input", "target"),
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the loss, or (loss, TaskLosses) when `return_tasks`; see the public functions."""
    loss = LOSSES[name]
    reduction = legacy_reduction(size_average, reduce, reduction)
    check_choice("reduction", reduction, loss.reductions)
    check_choice("backend", backend, NAMES)
    check_flags(return_tasks=return_tasks)
    if loss.classification:
        check_number("label_smoothing", label_smoothing, 0, 1)
    if ignore_index is not None and not isinstance(ignore_index, float):  # NaN is welcome
        check_number("ignore_index", ignore_index)
    check_tensor(names[0], input, None, names[0])
    check_tensor(names[1], target, input.device, names[0])
    dtype, device = input.dtype, input.device.type
    _check_dtypes(names, dtype, target.dtype)
    unmasked = mask is None and ignore_index is None
    unmasked = unmasked and task_weight is None and sample_weight is None
    if input.shape != target.shape:
        allowed = broadcasts and unmasked and not return_tasks
        input, target = _broadcast(names, input, target, allowed)
    if target.dtype is not dtype and target.dtype.is_floating_point:
        dtype = torch.promote_types(dtype, target.dtype)
    autocast = in_autocast(dtype, device)
    if input.dtype != dtype or (autocast and reduction == "none"):
        dtype = torch.float32 if autocast else dtype
        input = input.to(dtype)
    compute = compute_dtype(dtype)
    ops = select(backend, device, dtype)

    shape = input.shape
    strides = () if input.is_contiguous() else input.stride()
    tasks = shape[-1] if len(shape) > 1 else 1
    if len(shape) != 2:
        rows = input.numel() // max(tasks, 1)
        input, target = input.reshape(rows, tasks), target.reshape(rows, tasks)
    input, target = input.contiguous(), target.contiguous()
    operands: Any = (mask, weight, pos_weight, sample_weight, task_weight)
    given: list[Tensor] = []
    slots: list[int] = []
    if not unmasked or weight is not None or pos_weight is not None:
        operands = _operands(operands, input, shape, compute, names[0])
        if ignore_index is not None:
            operands[0] = _kept(target, ignore_index, loss, operands[0])
        given = [operand for operand in operands if operand is not None]
        slots = [i for i, operand in enumerate(operands) if operand is not None]

    settings: Any = loss.settings(parameters, reduction, label_smoothing)
    if (
        ops is None
        or uses_transforms()
        or traces_gradients(_without_kernel(target, given, reduction))
    ):
        value, *stats = reference_ops.pointwise(input, target, *operands, *settings)
    elif torch.is_grad_enabled() and (
        input.requires_grad or target.requires_grad or any(t.requires_grad for t in given)
    ):
        output = Pointwise.apply(input, target, settings, ops, return_tasks, slots, *given)
        value, *stats = output if return_tasks else (output,)
    else:
        value, *stats = ops.pointwise_forward(input, target, *operands, *settings)
    if reduction == "none":
        value = value.reshape(shape)
        # A traced graph chooses its own layouts, and can't sort strides that are symbols.
        if strides and not torch.compiler.is_compiling():
            value = _lay_out(value, strides)
    elif dtype != compute and not autocast:
        value = value.to(dtype)
    return (value, TaskLosses(*stats[:2])) if return_tasks else value
