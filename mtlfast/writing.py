"""Files that appear whole or not at all, and what an error says, in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path

__all__ = ["brief", "reason", "remove_leftovers", "write_atomic"]

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), or use another file system",
    errno.EACCES: "give permission, or name another place",
    errno.EPERM: "give permission, or name another place",
    errno.EROFS: "name another place",
    errno.EISDIR: "remove the folder, or name a file",
    errno.ENOTDIR: "name a place in a folder",
    errno.ENOENT: "see to it that its folder is there",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
}
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def reason(error: OSError) -> str:
    """Returns what the system says, with the file it says it of, and what to do, if that is known.

    Example:
        >>> reason(OSError(errno.ENOSPC, "No space left on device", "report.json"))
        'report.json: No space left on device; free some space'
    """
    if error.strerror is None:
        return str(error).rstrip(".")
    place = error.filename2 or error.filename
    words = [f"{os.fsdecode(place)}: "] if isinstance(place, str | bytes | os.PathLike) else []
    words += [error.strerror]
    words += [f"; {REMEDIES[error.errno]}"] if error.errno in REMEDIES else []
    return "".join(words)


def brief(error: Exception) -> str:
    """Returns what an error says, in part of a line: its first one, without the stop at its end."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")[:200]


def write_atomic(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path``; a crash leaves the old file or the new, never a part.

    It is written under a new name in the same folder, synced, and renamed; so a link in the place
    of ``path`` is replaced, and what it points to stays as it is.

    Raises:
        OSError: where it cannot be written, with the path and what to do; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with open(temporary, "wb", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    if os.name == "posix":
        # The file is whole by now; not every file system syncs folders.
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Removes what ``write_atomic`` leaves in ``folder`` where its process is killed."""
    for path in folder.glob(".*.tmp"):
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
