"""Losses by name: ours and torch's, and what is known of a function or module of theirs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn

import mtlfast.functional as MF

__all__ = ["function_of", "is_of", "takes", "torch_name"]

# torch's modules whose name is not that of their function without underscores.
MODULES = {
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "CrossEntropyLoss": "cross_entropy",
}


def function_of(name: str) -> Callable[..., Any]:
    """Returns our loss of that name, or torch's."""
    for module in (MF, F):
        function = getattr(module, name, None)
        if function is not None and takes(function, "reduction"):
            return function
    raise ValueError(
        "loss must be a callable or the name of a loss in mtlfast.functional or "
        f"torch.nn.functional; got {name!r}."
    )


def is_of(function: Any, module: str) -> bool:
    """Whether it is a function that a package defines."""
    return inspect.isfunction(function) and function.__module__.startswith(module)


def takes(function: Any, argument: str) -> bool:
    """Whether a function has an argument of that name."""
    return inspect.isfunction(function) and argument in inspect.signature(function).parameters


def torch_name(module: nn.Module) -> str:
    """Returns the name of the function behind one of torch's loss modules, or a child of one."""
    for kind in type(module).__mro__:
        if kind.__module__ == "torch.nn.modules.loss" and not kind.__name__.startswith("_"):
            plain = {name.replace("_", ""): name for name in dir(F) if name.endswith("_loss")}
            return MODULES.get(kind.__name__) or plain.get(kind.__name__.lower(), kind.__name__)
    return type(module).__name__
