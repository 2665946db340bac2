"""Of what kind an argument is, said in one line where it is of another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["check_kinds"]

Given = tuple[str, Any, Any, str]


def check_kinds(given: Iterable[Given]) -> None:
    """Checks arguments, each ``(name, value, kind as isinstance takes it, what was wanted)``.

    True and False are no numbers.

    Raises:
        TypeError: for the first that is of another kind.
    """
    for name, value, kind, wanted in given:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{name} must be {wanted}; got {type(value).__name__}.")
