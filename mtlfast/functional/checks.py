"""What every loss asks of its arguments, and how it says what is wrong: in one line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import _reduction

FLOATING = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
HALF = (torch.bfloat16, torch.float16)
INF = float("inf")
REAL = FLOATING.union((torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))


class ArgumentError(ValueError, RuntimeError):
    """A bad value or shape. A RuntimeError too: what torch raises for most of them."""


class ArgumentTypeError(TypeError, RuntimeError):
    """A bad type or dtype. A RuntimeError too: what torch raises for most dtypes."""


_ALSO_TORCHS: dict[type[Exception], type[Exception]] = {
    ValueError: ArgumentError,
    TypeError: ArgumentTypeError,
}
# What to do with what is no tensor, by the name of its type.
_TO_TENSOR = dict.fromkeys(("list", "tuple", "ndarray"), ": call torch.as_tensor({}) first")
_TO_TENSOR["Proxy"] = ": torch.fx records a loss called through its module, as MF.mse_loss(x, y)"


def fail(message: str, kind: type[Exception] = ValueError) -> NoReturn:
    """Raises `kind` with one line: the argument, what was wanted, what came, what to do."""
    raise _ALSO_TORCHS.get(kind, kind)(message)


def told(value: Any) -> str:
    """Returns how a message tells a value: itself if it is a single one, else its type."""
    plain = value is None or isinstance(value, (str, bool, int, float))
    return repr(value)[:80] if plain else type(value).__name__


def check_scalar(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is a number, Python's or NumPy's."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        todo = ": call .item() first" if hasattr(value, "item") else ""
        fail(f"{name} must be a number; got {told(value)}{todo}.", TypeError)


def check_number(
    name: str, value: Any, low: float = -INF, high: float = INF, *, inclusive: bool = True
) -> None:
    """Raises TypeError unless `value` is a number, ValueError unless low <= value <= high."""
    check_scalar(name, value)
    if not low <= value <= high or (value == low and not inclusive):
        wanted = "a number"
        if low > -INF:
            wanted = f"{'at least' if inclusive else 'greater than'} {low}"
        if high < INF:
            wanted = f"in [{low}, {high}]"
        fail(f"{name} must be {wanted}; got {value}.")


def check_whole(name: str, value: Any, low: int, high: float = INF) -> int:
    """Returns `value`; raises TypeError unless it is whole, ValueError unless in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        fail(f"{name} must be a whole number; got {told(value)}.", TypeError)
    check_number(name, int(value), low, high)
    return int(value)


def check_flags(**flags: Any) -> None:
    """Raises TypeError unless each is True or False, Python's or NumPy's."""
    for name, value in flags.items():
        numpys = type(value).__module__ == "numpy" and type(value).__name__.startswith("bool")
        if not isinstance(value, bool) and not numpys:
            fail(f"{name} must be True or False; got {told(value)}.", TypeError)


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        fail(f"{name} must be one of {', '.join(choices)}; got {told(value)}.")


def check_kinds(given: Iterable[tuple[str, Any, Any, str]]) -> None:
    """Raises TypeError for the first (name, value, kind, what was wanted) of another kind.

    The kind is as isinstance takes it; True and False are no numbers.
    """
    for name, value, kind, wanted in given:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            fail(f"{name} must be {wanted}; got {type(value).__name__}.", TypeError)


def check_sequence(name: str, values: Any, of: str) -> list[Any]:
    """Returns `values` as a list; raises TypeError for what is no sequence of what `of` says."""
    tensors = isinstance(values, Tensor) and of != "tensors"
    single = getattr(values, "ndim", 1) == 0
    unordered = isinstance(values, (str, bytes, Mapping, Set)) or not hasattr(values, "__iter__")
    if tensors or single or unordered:
        todo = ": call .tolist() first" if of == "numbers" and hasattr(values, "tolist") else ""
        fail(f"{name} must be a sequence of {of}; got {told(values)}{todo}.", TypeError)
    return list(values)


def legacy_reduction(size_average: Any, reduce: Any, reduction: str) -> str:
    """Returns the reduction; torch's two deprecated arguments choose it where they are given."""
    if size_average is None and reduce is None:
        return reduction
    check_flags(size_average=size_average is None or size_average)
    check_flags(reduce=reduce is None or reduce)
    return _reduction.legacy_get_string(size_average, reduce)


def check_tensor(name: str, tensor: Any, device: torch.device | None, like: str) -> None:
    """Raises TypeError or ValueError unless it is a dense tensor on the device of `like`."""
    if not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        todo = _TO_TENSOR.get(kind, "").format(name)
        fail(f"{name} must be a Tensor; got {kind}{todo}.", TypeError)
    if tensor.is_nested:
        padded = f"torch.nested.to_padded_tensor({name}, padding)"
        fail(f"{name} must be dense; got a nested tensor: call {padded} first.")
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
