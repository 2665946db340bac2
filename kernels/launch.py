"""What the op modules share: how kernels are compiled and launched, how an op is registered.

Ops are registered with plain Library.impl, the cheapest way through the dispatcher. They take a
loss and a reduction by number, in the order of their lists, as mtlfast/ops/catalogue.py has them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import triton

from .finish import sums_kernel

INTERPRETED = not isinstance(sums_kernel, triton.JITFunction)
WARP = 64 if torch.version.hip else 32
_LOOKS_AT_SIZES = torch.version.hip is not None  # Triton: AMD addresses up to 2 GiB by 32 bits
_library = torch.library.Library("mtlfast_triton", "DEF")


@functools.cache
def overlaps(device: int) -> bool:
    """Returns whether a kernel may be on a device before the one that it follows has ended.

    That is programmatic dependent launch, from NVIDIA's Hopper on.
    """
    if device < 0 or torch.version.hip:  # the CPU is -1
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def divide_up(a: int, b: int) -> int:
    """Returns a / b, rounded up. Triton's cdiv takes microseconds."""
    return -(-a // b)


def options(
    threads: int,
    fused: bool = True,
    warp: int = WARP,
    registers: int | None = None,
    follows: bool = False,
) -> dict[str, Any]:
    """Returns the compiler's options for programs of so many threads on warps of `warp`.

    `fused`: a product and a sum may become one fused multiply-add. Said at each launch, because
    Triton's own default changes from 3.10 on. `registers`: as many as a thread may take on NVIDIA,
    whose assembler otherwise moves loads to where they are needed, to save some. `follows`: the
    kernel may be launched early; it waits for the one before it.
    """
    found: dict[str, Any] = {"num_warps": threads // warp, "enable_fp_fusion": fused}
    if registers is not None and warp == 32:
        found["maxnreg"] = registers
    if follows:
        found["launch_pdl"] = True
    return found


class Options(NamedTuple):
    """What `options` is given, to look a compiled kernel up by."""

    threads: int
    fused: bool = True
    registers: int | None = None
    follows: bool = False


class Launch:
    """A kernel with its number of programs, its constants and its options: all but the arguments.

    Triton's own launch binds and specialises every argument each time, which takes longer than a
    small kernel runs. What it compiled is launched directly where the arguments that it would look
    at are as they were: types, all pointers aligned, all integers of 32 bits.
    """

    _compiled: ClassVar[dict[Any, dict[Any, Any]]] = {}

    def __init__(self, function: Any, programs: int, constants: tuple[Any, ...], given: Options):
        self.function, self.grid, self.constants = function, (programs, 1, 1), constants
        self.given = given
        # What other numbers of programs compiled is theirs, too.
        self.compiled = self._compiled.setdefault((function, constants, given), {})

    def __call__(
        self,
        device: int,
        tensors: Sequence[Any],
        integers: Sequence[int],
        floats: Sequence[Any] = (),
    ) -> None:
        """Launches the kernel, which takes the arguments in this order, then the constants.

        It specialises no integer. There may be None for a tensor, and tuples of tensors or floats,
        as many as the constants say.
        """
        if INTERPRETED:
            self._compile(tensors, integers, floats)
        elif device != torch.cuda.current_device():
            with torch.cuda.device(device):
                self(device, tensors, integers, floats)
        else:
            addresses: list[Any] = []
            key: list[Any] = [device]
            unaligned = _look(tensors, addresses, key) & 15 or max(integers) > 0x7FFFFFFF
            types = None if unaligned else tuple(key)
            compiled = self.compiled.get(types)
            if compiled is not None:
                compiled[self.grid](*addresses, *integers, *floats, *self.constants)
            else:
                compiled = self._compile(tensors, integers, floats)
                # A hook may have put compilation off.
                if types is not None and hasattr(type(compiled), "__getitem__"):
                    self.compiled[types] = compiled

    def _compile(
        self, tensors: Sequence[Any], integers: Sequence[int], floats: Sequence[Any]
    ) -> Any:
        threads, fused, registers, follows = self.given
        named = options(threads, fused, WARP, registers, follows)
        return self.function[self.grid](*tensors, *integers, *floats, *self.constants, **named)


def _look(tensors: Sequence[Any], addresses: list[Any], types: list[Any]) -> int:
    """Adds the tensors' addresses and dtypes to the lists; returns the bits of all addresses."""
    bits = 0
    for tensor in tensors:
        if tensor is None:
            addresses.append(None)
            types.append(None)
        elif tensor.__class__ is tuple:
            inner: list[Any] = []
            types.append(len(tensor))
            bits |= _look(tensor, inner, types)
            addresses.append(tuple(inner))
        else:
            address = tensor.data_ptr()
            bits |= address
            addresses.append(address)
            types.append(tensor.dtype)
            if _LOOKS_AT_SIZES:
                types.append(tensor.untyped_storage().nbytes() > 0x7FFFFFFF)
    return bits


def define(schema: str, run: Callable[..., Any]) -> Any:
    """Returns the op mtlfast_triton::`schema`, which runs as given."""
    name = schema.partition("(")[0]
    _library.define(schema)
    for device in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
        _library.impl(name, run, device)
    return getattr(torch.ops.mtlfast_triton, name).default
