"""What every loss asks of its arguments, and how it says what is wrong: in one line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

FLOATING = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
HALF = (torch.bfloat16, torch.float16)
REAL = FLOATING.union((torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))


def fail(message: str, kind: type[Exception] = ValueError) -> NoReturn:
    """Raises `kind` with one line: the argument, what was wanted, what came, what to do."""
    raise kind(message)


def check_number(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises TypeError unless `value` is a number, ValueError unless low <= value <= high."""
    if not isinstance(value, (int, float)):
        fail(f"{name} must be a number; got {type(value).__name__}.", TypeError)
    if not low <= value <= high:
        wanted = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
        wanted = "a number, not NaN" if low == -float("inf") == -high else wanted
        fail(f"{name} must be {wanted}; got {value}.")


def check_scalar(name: str, value: float) -> None:
    """Raises TypeError unless `value` is a real number, of Python or NumPy."""
    if not isinstance(value, Real) or isinstance(value, bool):
        fail(f"{name} must be a number; got {type(value).__name__}.", TypeError)


def check_whole(name: str, value: int, low: int, high: float = float("inf")) -> int:
    """Returns `value`; raises TypeError unless it is whole, ValueError unless in [low, high]."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        got = value if isinstance(value, float) else type(value).__name__
        fail(f"{name} must be a whole number; got {got}.", TypeError)
    check_number(name, int(value), low, high)
    return int(value)


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        fail(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


def check_tensor(name: str, tensor: Tensor, device: torch.device | None, like: str) -> None:
    """Raises TypeError or ValueError unless it is a dense tensor on the device of `like`."""
    if not isinstance(tensor, Tensor):
        fail(f"{name} must be a Tensor; got {type(tensor).__name__}.", TypeError)
    if tensor.layout is not torch.strided:
        fail(f"{name} must be dense; got {tensor.layout}: call .to_dense() first.")
    if device is not None and tensor.device != device:
        fail(
            f"{name} must be on the device of {like}, {device}; got {tensor.device}: "
            f"call {name}.to({str(device)!r}) first."
        )


def check_embeddings(name: str, tensor: Tensor, device: torch.device | None, like: str) -> None:
    """Raises TypeError or ValueError unless it is dense, floating and on the device of `like`."""
    check_tensor(name, tensor, device, like)
    if tensor.dtype not in FLOATING:
        wanted = "float32, float64, bfloat16 or float16"
        fail(f"{name} must be {wanted}; got {tensor.dtype}: pass embeddings.", TypeError)


def check_real(name: str, tensor: Tensor) -> None:
    """Raises TypeError for complex, quantised and other tensors that hold no real numbers."""
    if not tensor.is_floating_point() and tensor.dtype not in REAL:
        fail(f"{name} must be a real number type; got {tensor.dtype}.", TypeError)


def check_vector(name: str, tensor: Tensor, length: int, per: str) -> Tensor:
    """Returns `tensor`; raises ValueError unless its shape is (length,)."""
    if tensor.dim() != 1 or tensor.shape[0] != length:
        fail(f"{name} must have shape ({length},), one per {per}; got {tuple(tensor.shape)}.")
    return tensor


def in_autocast(dtype: torch.dtype, device: str) -> bool:
    """Whether autocast asks for float32 where `dtype` came: as for torch's own losses."""
    return dtype in HALF and (
        torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    )


def uses_transforms() -> bool:
    """Whether torch.func or forward-mode AD is at work: both need plain differentiable PyTorch."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def traces_gradients(tensors: Sequence[Tensor]) -> bool:
    """Whether torch.compile traces gradients of `tensors`, which the kernels lack."""
    if not torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    return any(tensor.requires_grad for tensor in tensors)
