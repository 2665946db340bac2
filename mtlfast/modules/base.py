"""What the loss modules share: their options are attributes, and they call the function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import mtlfast.functional as MF
from mtlfast.functional.checks import check_choice, fail, legacy_reduction
from mtlfast.ops.backends import NAMES

__all__ = ["Loss", "called_with"]

_LEGACY = ("size_average", "reduce")


def called_with(tensors: Callable[..., None]) -> Callable[..., Any]:
    """Returns the `forward` that takes what a method names, and keywords of one call.

    torch.fx reads the names from the method: a graph's inputs are tensors, and no keywords.
    """

    @functools.wraps(tensors)
    def forward(self: Loss, *tensors: Any, **per_call: Any) -> Any:
        options = {name: getattr(self, name) for name in self.defaults}
        # By its name in the package, where torch.fx looks for the functions that it records.
        return getattr(MF, type(self).function.__name__)(*tensors, **{**options, **per_call})

    return forward


class Loss(nn.Module):
    """Holds the options of one loss as attributes, and calls its function.

    Each keyword of the function is an attribute, its default where none was given; what is assigned
    counts from the next call on. Tensors among them are buffers, or parameters if they are given as
    such; they move with the module. Call it with the tensors of a batch, and with keywords that
    belong to a batch, such as `mask` and `sample_weight`.
    """

    function: Callable[..., Any]
    defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        """Reads from the signatures which attributes an instance has."""
        super().__init_subclass__()
        if "function" not in cls.__dict__:
            return
        own = inspect.signature(cls).parameters
        known = inspect.signature(cls.function).parameters.values()
        cls.defaults = {
            option.name: None if option.default is option.empty else option.default
            for option in known
            if option.name in own or option.default is not option.empty
        }
        for name in _LEGACY:
            cls.defaults.pop(name, None)

    def __init__(self, **options: Any) -> None:
        super().__init__()
        defaults = self.defaults
        for name in options:
            if name not in defaults and name not in _LEGACY:
                fail(f"{type(self).__name__} takes no option {name!r}.", TypeError)
        size_average, reduce = (options.pop(name, None) for name in _LEGACY)
        reduction = options.get("reduction", defaults["reduction"])
        options["reduction"] = legacy_reduction(size_average, reduce, reduction)
        for name, default in defaults.items():
            setattr(self, name, options.get(name, default))
        self._check(options)

    def example(self) -> tuple[Any, ...]:
        """Returns a batch without rows."""
        return torch.empty(0, 1, device="cpu"), torch.empty(0, 1, device="cpu")

    def _check(self, options: dict[str, Any]) -> None:
        """Refuses what the function refuses, tensors aside: they may belong to another device."""
        plain = {name: value for name, value in options.items() if not isinstance(value, Tensor)}
        check_choice("backend", plain.pop("backend", "auto"), NAMES)
        type(self).function(*self.example(), **plain, backend="reference")

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; an option is a buffer where it is a tensor, whatever it was before."""
        if name in self.defaults and not isinstance(value, nn.Parameter):
            for held in (self.__dict__, self._buffers, self._parameters):
                held.pop(name, None)
            if isinstance(value, Tensor):
                return self.register_buffer(name, value)
        return super().__setattr__(name, value)

    @called_with
    def forward(self, input: Tensor, target: Tensor) -> None:
        """Returns what the function does with the options held."""

    def extra_repr(self) -> str:
        """Returns the options that are not the defaults; tensors by their shape."""
        told = []
        for name, default in self.defaults.items():
            value = getattr(self, name)
            if isinstance(value, Tensor):
                told.append(f"{name}={tuple(value.shape)}")
            elif value is not default and value != default:
                told.append(f"{name}={value!r}")
        return ", ".join(told)
