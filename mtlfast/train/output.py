"""The output directory: checked, locked as long as a run lasts, an earlier run removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from mtlfast.writing import remove_leftovers

try:
    import fcntl
except ImportError:  # Windows: two runs in one directory are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["FILES", "TENSORBOARD", "agreed", "check", "claimed", "clear"]

FILES = ("report.json", "history.csv", "weights.png", "losses.png", "checkpoints")
# What a run leaves there in any case; with TensorBoard this folder too.
TENSORBOARD = "tensorboard"
LOCK = ".lock"
# The locks of this process: the file, its descriptor, and the thread that has it.
_held: dict[Path, tuple[int, int]] = {}


def check(output: str | Path, resume: bool = False, overwrite: bool = False) -> None:
    """Checks that ``output`` can be written; every process may. It is made if absent.

    Args:
        output: the directory.
        resume: an earlier run in it is continued.
        overwrite: an earlier run in it will be removed, by ``clear``.

    Raises:
        ValueError: where the directory is not writable, or holds a run that is neither continued
            nor removed.
    """
    output = Path(output)
    with _writable(output):
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    if not (resume or overwrite) and any(
        os.path.lexists(output / name) for name in (*FILES, TENSORBOARD)
    ):
        remedy = "resume continues it, overwrite replaces it (--resume, --overwrite)"
        raise ValueError(f"the output directory {output} holds another run; {remedy}.")


def clear(output: str | Path) -> None:
    """Removes an earlier run from ``output``; files of other kinds stay, and what links point to.

    With several processes the main one does this after all have checked, and the others wait.

    Raises:
        ValueError: where something cannot be removed.
    """
    output = Path(output)
    with _writable(output):
        for path in (output / name for name in (*FILES, TENSORBOARD)):
            folder = path.is_dir() and not path.is_symlink()
            shutil.rmtree(path) if folder else path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(
    output: str | Path, processes: Any, *, resume: bool = False, overwrite: bool = False
) -> Iterator[None]:
    """Within it ``output`` is this run's alone: checked by all processes, then cleared if asked.

    The lock is the main process's, and ends with that process however it ends. The thread that has
    it may claim again.

    Args:
        output: the directory.
        processes: an Accelerator or PartialState.
        resume: an earlier run in it is continued.
        overwrite: an earlier run in it is removed.

    Raises:
        ValueError: as ``check``, or where another run has the directory; in all processes alike.
    """
    output = Path(output)
    with contextlib.ExitStack() as stack:
        with agreed():
            if processes.is_main_process:
                stack.enter_context(_locked(output))
            check(output, resume, overwrite)
        with agreed():
            if processes.is_main_process:
                if overwrite:
                    clear(output)
                for folder in (output, output / "checkpoints"):
                    remove_leftovers(folder)
        yield


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """At its end processes wait for each other: what one of them refuses within it, all do.

    Raises:
        ValueError: its own, or another process's.
    """
    refusal: Exception | None = None
    try:
        yield
    except (OSError, ValueError) as error:
        refusal = error
    told = gather_object([refusal and str(refusal)])
    if refusal is not None:
        raise refusal
    for text in told:
        if text is not None:
            raise ValueError(text)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Holds the lock of a directory, which is made if absent."""
    with _writable(output):
        output.mkdir(parents=True, exist_ok=True)
        place = output.resolve() / LOCK
        mine = place in _held and _held[place][1] == threading.get_ident()
        descriptor = None if mine or fcntl is None else _lock(place, output)
    if descriptor is None:
        yield
        return
    _held[place] = descriptor, threading.get_ident()
    try:
        yield
    finally:
        del _held[place]
        # While it is still locked: who opened it meanwhile sees that it is gone, and makes his own.
        with contextlib.suppress(OSError):
            place.unlink()
        os.close(descriptor)


def _lock(place: Path, output: Path) -> int:
    """Returns the descriptor of the file, locked, with a word in it on who has it."""
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    free = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had it until now takes the file away.
        free = os.path.samefile(descriptor, place)
    except (BlockingIOError, FileNotFoundError):
        free = False
    except OSError as error:  # some file systems have no locks
        warnings.warn(
            f"the output directory {output} cannot be locked ({error.strerror}): see to it "
            "that no other run writes there.",
            stacklevel=2,
        )
    if not free:
        owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        wanted = f"the output directory {output} must be of one run at a time"
        raise ValueError(f"{wanted}; {owner} is at it: wait, or name another.")
    with contextlib.suppress(OSError):
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _forget() -> None:
    """In a forked child: closes the locks, which would else outlive the process that has them."""
    while _held:
        os.close(_held.popitem()[1][0])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def _writable(output: Path) -> Iterator[None]:
    """Within it, what the system refuses is told of the directory."""
    try:
        yield
    except OSError as error:
        got = error.strerror or error
        raise ValueError(f"the output directory {output} must be writable; got: {got}.") from error
