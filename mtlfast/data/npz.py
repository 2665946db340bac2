"""Arrays of others: those of an npz file."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mtlfast.writing import brief

__all__ = ["read_arrays", "texts"]

# Beyond this an archive that unpacks to so many times its size is taken for a mistake or a trap;
# deflate packs zeros 1000 to 1, and sparse fingerprints 20 to 1.
LARGE, TIMES = 1 << 30, 200


def read_arrays(file: Path, names: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns arrays of an npz file by name, and the names of all that it holds.

    Before anything is read, what its members claim is compared with what is there. Numbers come in
    this machine's byte order.

    Args:
        file: the npz file.
        names: those that are wanted, where they are there.

    Raises:
        ValueError: where it cannot be read, with its name.
    """
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        with file.open("rb") as opened:
            if opened.read(6) == b"\x93NUMPY":
                raise ValueError("it is a single array, an npy file")
        with zipfile.ZipFile(file) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise ValueError("it holds two arrays of one name")
            wanted = {n: m for n, m in members.items() if n in names}
            _check_size(file.stat().st_size, sum(m.file_size for m in wanted.values()))
            return {n: _read(archive, n, m) for n, m in wanted.items()}, list(members)
    except Exception as error:  # whatever zipfile, zlib and numpy raise at a stranger's bytes
        wanted_is = "it must be an npz file of arrays, without pickled objects"
        raise ValueError(f"{file} cannot be read: {wanted_is}; {brief(error)}.") from error


def _check_size(packed: int, size: int) -> None:
    pages = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    memory = math.prod(map(os.sysconf, pages)) if hasattr(os, "sysconf") else math.inf
    said = f"it unpacks to {size / 2**30:.1f} GiB, {size / max(1, packed):.0f} times its size"
    if size > memory:
        raise ValueError(f"{said}, and this machine has {memory / 2**30:.1f} GiB")
    if size > max(LARGE, TIMES * packed):
        raise ValueError(f"{said}: if that is meant, store it by np.savez, which does not pack")


def _read(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns an array, once its header and its size are found to agree."""
    with archive.open(member) as stream:
        major, minor = np.lib.format.read_magic(stream)
        header: Any = getattr(np.lib.format, f"read_array_header_{major}_{minor}", None)
        if header is None:
            raise ValueError(f"{name} is of npy version {major}.{minor}")
        shape, _, dtype = header(stream)
        held = member.file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects: save numbers, or text as dtype=str")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{name} claims {shape} of {dtype} and holds {held} bytes")
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # the end, where the checksum is compared
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def texts(file: Path, name: str, array: np.ndarray) -> list[str]:
    """Returns an array of names or numbers, of at most one dimension, as text.

    Raises:
        ValueError: for more dimensions, or bytes that are no UTF-8.
    """
    if array.ndim > 1 or array.dtype.kind not in "SUbiuf":
        got = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"{file}: {name} must be a row of names or numbers; got {got}.")
    try:
        plain = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: {name} must be text in UTF-8; got other bytes.") from error
    return [str(item) for item in np.atleast_1d(plain).tolist()]
