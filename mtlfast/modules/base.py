"""What the loss modules share: they hold options, and call the function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mtlfast.functional import arguments
from mtlfast.functional.checks import check_choice, fail

__all__ = ["Loss"]

_TENSORS = ("weight", "pos_weight", "task_weight", "scale", "bias")


class Loss(nn.Module):
    """Holds the options of one loss, and calls its function.

    Tensors among the options are buffers, or parameters if they are given as such; they move with
    the module. Call it with the tensors of a batch, and with keywords that belong to a batch, such
    as `mask` and `sample_weight`.
    """

    function: Callable[..., Any]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        known = inspect.signature(type(self).function).parameters
        for name in options:
            if name not in known:
                fail(f"{type(self).__name__} takes no option {name!r}.", TypeError)
        self.reduction: str = options.pop("reduction", known["reduction"].default)
        check_choice("reduction", self.reduction, self.reductions())
        held = [name for name, value in options.items() if isinstance(value, Tensor)]
        self.names = [name for name in known if name in _TENSORS or name in held]
        for name in self.names:
            value = options.pop(name, None)
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            elif isinstance(value, Tensor) or value is None:
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.options = options

    @staticmethod
    def reductions() -> tuple[str, ...]:
        """Returns the names that `reduction` may have."""
        return arguments.REDUCTIONS

    def forward(self, *tensors: Any, **per_call: Any) -> Any:
        """Returns what the function does with the options held."""
        held = {name: getattr(self, name) for name in self.names}
        options = {"reduction": self.reduction, **held, **self.options, **per_call}
        return type(self).function(*tensors, **options)

    def extra_repr(self) -> str:
        """Returns the options that were given; tensors by their shape."""
        given: dict[str, Any] = {"reduction": self.reduction}
        for name in self.names:
            value = getattr(self, name)
            given[name] = tuple(value.shape) if isinstance(value, Tensor) else value
        given |= self.options
        return ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
