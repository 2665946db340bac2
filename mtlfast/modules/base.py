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
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def called_with(
    tensors: Callable[..., Any], function: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Returns the `forward` that takes what a method names, and keywords of one call.

    torch.fx reads the names from the method: a graph's inputs are tensors, and no keywords. Each
    class with a function of its own gets its own `forward`.
    """
    name = getattr(function, "__name__", "")
    ours = getattr(MF, name, None) is function

    @functools.wraps(tensors)
    def forward(self: Loss, *tensors: Any, **per_call: Any) -> Any:
        options = {option: getattr(self, option) for option in self._given}
        # By its name in the package, where torch.fx looks for the functions that it records.
        call: Any = getattr(MF, name) if ours else function
        return call(*tensors, **(options | per_call))

    forward.tensors = tensors  # type: ignore[attr-defined]
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
        """Reads from the signatures which attributes an instance has, and how it is called."""
        super().__init_subclass__()
        if "function" not in cls.__dict__:
            return
        own, signature = inspect.signature(cls).parameters, inspect.signature(cls.function)
        known = [p for p in signature.parameters.values() if p.name not in _LEGACY]
        empty = inspect.Parameter.empty
        cls.defaults = {
            option.name: None if option.default is empty else option.default
            for option in known
            if option.default is not empty or (option.name in own and option.kind not in _ANY)
        }
        if tensors := getattr(cls.forward, "tensors", None):  # else it is a user's own
            forward: Any = called_with(tensors, cls.function)
            shown = [
                option.replace(kind=option.KEYWORD_ONLY) if option.name in cls.defaults else option
                for option in known
            ]
            itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
            forward.__signature__ = signature.replace(parameters=[itself, *shown])
            cls.forward = forward  # type: ignore[method-assign]

    def __init__(self, **options: Any) -> None:
        """Takes the options of the function by name, those that torch has by place too."""
        super().__init__()
        self._given: tuple[str, ...] = ()  # the options that are not the defaults
        defaults = self.defaults
        for name in options:
            if name not in defaults and name not in _LEGACY:
                fail(f"{type(self).__name__} takes no option {name!r}.", TypeError)
        size_average, reduce = (options.pop(name, None) for name in _LEGACY)
        if "reduction" in defaults:
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
        if "backend" in self.defaults:
            check_choice("backend", plain.get("backend", "auto"), NAMES)
            plain["backend"] = "reference"
        type(self).function(*self.example(), **plain)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; an option is a buffer where it is a tensor, whatever it was before."""
        if name not in self.defaults:
            return super().__setattr__(name, value)
        if not isinstance(value, nn.Parameter):
            for held in (self.__dict__, self._buffers, self._parameters):
                held.pop(name, None)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value)
        else:
            super().__setattr__(name, value)
        default = self.defaults[name]
        same = type(value) is type(default) and value == default
        given = [option for option in self._given if option != name]
        self._given = (*given, *([] if same else [name]))

    @called_with
    def forward(self, input: Tensor, target: Tensor) -> Any:
        """Returns what the function does with the options held."""

    def extra_repr(self) -> str:
        """Returns the options that are not the defaults; tensors by their shape."""
        told = []
        for name in filter(self._given.__contains__, self.defaults):
            value = getattr(self, name)
            shown = tuple(value.shape) if isinstance(value, Tensor) else value
            told.append(f"{name}={shown!r}")
        return ", ".join(told)
