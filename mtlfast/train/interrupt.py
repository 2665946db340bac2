"""Ctrl-C and SIGTERM, answered between two optimizer steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "noted"]


class Interrupted(KeyboardInterrupt):
    """A run was asked to end and has saved itself first.

    Attributes:
        signal: the number of the signal that asked.

    Example:
        >>> try:
        ...     raise Interrupted("saved", signal.SIGTERM)  # as Trainer.fit does
        ... except Interrupted as stopped:
        ...     print("exit status", 128 + stopped.signal)
        exit status 143
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


@contextmanager
def noted() -> Iterator[list[int]]:
    """Within it, the first SIGINT and the first SIGTERM are only noted; the next acts as usual.

    Outside of the main thread, where signals cannot be handled, it does nothing. What it gives is
    the list of those that came.
    """
    came: list[int] = []
    usual: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, usual.pop(number))

    if threading.current_thread() is threading.main_thread():
        usual |= {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        while usual:
            signal.signal(*usual.popitem())
