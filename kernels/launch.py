"""What the op modules share: how kernels are compiled, where they run, how an op is registered.

Ops are registered with plain Library.impl, the cheapest way through the dispatcher. They take a
loss and a reduction by number, in the order of their lists, as mtlfast/ops/catalogue.py has them.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton

from .finish import finish_kernel

INTERPRETED = not isinstance(finish_kernel, triton.JITFunction)
WARP = 64 if torch.version.hip else 32
_library = torch.library.Library("mtlfast_triton", "DEF")


@functools.cache
def processors(device: int) -> int:
    """Returns the number of multiprocessors of a device; the CPU, -1, has a few."""
    return 4 if device < 0 else torch.cuda.get_device_properties(device).multi_processor_count


def options(threads: int, fused: bool = True, warp: int = WARP) -> dict[str, Any]:
    """Returns the compiler's options for programs of so many threads on warps of `warp`.

    `fused`: a product and a sum may become one fused multiply-add. Said at each launch, because
    Triton's own default changes from 3.10 on.
    """
    return {"num_warps": threads // warp, "enable_fp_fusion": fused}


def define(schema: str, run: Callable[..., Any]) -> Any:
    """Returns the op mtlfast_triton::`schema`, which runs as given."""
    name = schema.partition("(")[0]
    _library.define(schema)
    for device in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
        _library.impl(name, run, device)
    return getattr(torch.ops.mtlfast_triton, name).default
