"""What a module remembers keeps its digits when the model around it is cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from mtlfast.functional.checks import HALF

__all__ = ["Memory"]


class Memory(nn.Module):
    """A module whose buffers and parameters stay float32 or float64 whatever it is cast to.

    Sums over many batches, and weights that follow from differences, have no digits to spare.
    ``half()``, ``bfloat16()``, ``to(dtype)`` and ``type(dtype)``, of this module or of one around
    it, leave its tensors as they are; ``float()`` and ``double()`` cast the floating ones, and
    devices change as ever.

    Example:
        >>> class Total(Memory):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("sum", torch.zeros(()))
        >>> nn.Sequential(Total()).bfloat16()[0].sum.dtype
        torch.float32
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            exact = changed.dtype in (torch.float32, torch.float64)
            if changed.dtype == tensor.dtype or (exact and tensor.is_floating_point()):
                return changed
            return tensor.to(changed.device)

        super()._apply(keep, recurse)
        return self

    def register_buffer(self, name: str, tensor: Tensor | None, *rest: Any, **options: Any) -> None:
        """Adds a buffer, in float32 where torch's default is a half type."""
        if tensor is not None and tensor.dtype in HALF:
            tensor = tensor.float()
        super().register_buffer(name, tensor, *rest, **options)
