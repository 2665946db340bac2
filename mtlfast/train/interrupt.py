"""Ctrl-C and SIGTERM, answered between two optimizer steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupted", "Interruption"]


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


class Interruption:
    """Within it, the first SIGINT and the first SIGTERM are only noted; the next acts as usual.

    Outside of the main thread, where signals cannot be handled, it does nothing.

    Attributes:
        number: the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._usual: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self.number = 0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._usual[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._usual:
            signal.signal(*self._usual.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._usual.pop(number))
