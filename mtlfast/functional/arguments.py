"""Arguments of the pointwise losses: checked, broadcast to (N, T), and handed to a backend."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import _reduction

from mtlfast.ops import reference
from mtlfast.ops.autograd import Pointwise
from mtlfast.ops.backends import select

REDUCTIONS = ("none", "sum", "mean", "batchmean", "taskmean")
_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_INTEGER = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class TaskLosses(NamedTuple):
    """Per-task means over labelled elements, (T,), and int64 labelled counts, (T,)."""

    loss: Tensor
    count: Tensor


def fail(message: str, kind: type[Exception] = ValueError) -> None:
    raise kind(message)


def check_number(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises ValueError unless low <= value <= high (NaN fails)."""
    if not low <= value <= high:
        wanted = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
        fail(f"{name} must be {wanted}; got {value}.")


def _check_tensors(input: Tensor, target: Tensor, factors: dict[str, Tensor | None]) -> None:
    for name, tensor in (("input", input), ("target", target), *factors.items()):
        if tensor is None and name in factors:
            continue
        if not isinstance(tensor, Tensor):
            fail(f"{name} must be a Tensor; got {type(tensor).__name__}.", TypeError)
        if tensor.layout != torch.strided:
            fail(f"{name} must be dense; got {tensor.layout}: call .to_dense() first.")
        if tensor.device != input.device:
            fail(
                f"{name} must be on the device of input, {input.device}; got {tensor.device}: "
                f"call {name}.to({str(input.device)!r}) first."
            )
    if input.dtype not in _FLOATING:
        fail(
            f"input must be float32, float64, bfloat16 or float16; got {input.dtype}: "
            "pass logits or predictions, not labels.",
            TypeError,
        )
    if target.dtype not in _FLOATING and target.dtype not in _INTEGER:
        fail(f"target must be floating, bool or an integer type; got {target.dtype}.", TypeError)
    mask = factors["mask"]
    if mask is not None and mask.dtype != torch.bool:
        fail(f"mask must be bool, True where labelled; got {mask.dtype}: call mask.bool().", TypeError)


def _expand(name: str, tensor: Tensor, shape: torch.Size, flat: tuple[int, int]) -> Tensor:
    """Returns `tensor` broadcast to `shape`, as (N, T)."""
    if tensor.shape != shape:
        try:
            tensor = tensor.expand(shape)
        except RuntimeError:
            fail(f"{name} must broadcast to the input's shape {tuple(shape)}; got {tuple(tensor.shape)}.")
    return tensor if len(shape) == 2 else tensor.reshape(flat)


def _vector(name: str, tensor: Tensor, length: int, per: str) -> Tensor:
    if tensor.dim() != 1 or tensor.shape[0] != length:
        fail(f"{name} must have shape ({length},), one per {per}; got {tuple(tensor.shape)}.")
    return tensor


def _broadcast(input: Tensor, target: Tensor, as_torch: bool, broadcasts: bool) -> tuple[Tensor, Tensor]:
    if input.shape == target.shape:
        return input, target
    if not (as_torch and broadcasts):
        fail(
            f"target must have the shape of input, {tuple(input.shape)}; got {tuple(target.shape)}."
        )
    warnings.warn(
        f"Using a target size ({target.size()}) that is different to the input size "
        f"({input.size()}). This will likely lead to incorrect results due to broadcasting. "
        "Please ensure they have the same size.",
        stacklevel=4,
    )
    input, target = torch.broadcast_tensors(input, target)
    return input, target


def _uses_transforms() -> bool:
    """Whether torch.func or forward-mode AD is at work: both need plain differentiable PyTorch."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def pointwise(
    loss: str,
    input: Tensor,
    target: Tensor,
    params: Sequence[float],
    reduction: str,
    *,
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
) -> Any:
    """Returns the loss, or (loss, TaskLosses) when `return_tasks`; see the public functions."""
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction not in REDUCTIONS:
        fail(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}.")
    factors = {
        "mask": mask,
        "weight": weight,
        "pos_weight": pos_weight,
        "sample_weight": sample_weight,
        "task_weight": task_weight,
    }
    _check_tensors(input, target, factors)
    as_torch = mask is None and task_weight is None and sample_weight is None and not return_tasks
    input, target = _broadcast(input, target, as_torch, broadcasts)
    dtype = input.dtype
    if target.dtype != dtype and target.dtype.is_floating_point:
        dtype = torch.promote_types(dtype, target.dtype)
    device = input.device.type
    autocast = dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(device)
    if input.dtype != dtype or (autocast and reduction == "none"):
        dtype = torch.float32 if autocast else dtype
        input = input.to(dtype)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    ops = select(backend, device, dtype)

    shape = input.shape
    tasks = shape[-1] if len(shape) > 1 else 1
    if len(shape) != 2:
        input, target = input.reshape(-1, tasks), target.reshape(-1, tasks)
        if input.numel() == 0:
            input = input.reshape(0, tasks)
            target = target.reshape(0, tasks)
    flat = (input.shape[0], tasks)
    if mask is not None:
        mask = _expand("mask", mask, shape, flat)
    if weight is not None:
        weight = _expand("weight", weight, shape, flat).to(compute)
    if pos_weight is not None:
        pos_weight = _expand("pos_weight", pos_weight, shape, flat).to(compute)
    if sample_weight is not None:
        sample_weight = _vector("sample_weight", sample_weight, flat[0], "row")
        sample_weight = sample_weight.to(compute).unsqueeze(1).expand(flat)
    if task_weight is not None:
        task_weight = _vector("task_weight", task_weight, tasks, "task").to(compute).contiguous()

    tensors = (
        input.contiguous(),
        target.contiguous(),
        mask,
        weight,
        pos_weight,
        sample_weight,
        task_weight,
    )
    settings = (loss, params, reduction)
    if ops is None or _uses_transforms():
        value, *tasks_out = reference.pointwise(*tensors, *settings)
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        output = Pointwise.apply(*tensors, *settings, ops, return_tasks)
        value, *tasks_out = output if return_tasks else (output,)
    else:
        value, *tasks_out = ops.pointwise_forward(*tensors, *settings)
    if reduction == "none":
        value = value.reshape(shape)
    elif dtype != compute and not autocast:
        value = value.to(dtype)
    return (value, TaskLosses(*tasks_out[:2])) if return_tasks else value
