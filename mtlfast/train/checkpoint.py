"""Safe, atomic checkpoints: tensors by safetensors, everything else as JSON, nothing executed on
load.

A checkpoint is one safetensors file. Its tensors are named by their place in the state, as in
``model/backbone.0.weight``; its metadata holds the rest of the state as JSON, in which tuples and
mappings are tagged, so that what comes back is what went in: tuples as tuples, integer keys as
integers. A checksum over all of it tells a damaged file.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import stat
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mtlfast.writing import brief, write_atomic

__all__ = [
    "Damaged",
    "check",
    "load",
    "load_newest",
    "newest",
    "prune",
    "save",
    "step_path",
]

SUFFIX = ".safetensors"
MAPPINGS: dict[str, type] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": Counter,
    "defaultdict": dict,
}
SEQUENCES: dict[str, type] = {"tuple": tuple, "list": list}
SCALARS = frozenset((bool, int, float, str, type(None)))


class Damaged(ValueError):
    """A file that is not, or no longer, a checkpoint that can be gone on from."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is not a whole checkpoint ({why}).")


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` as a checkpoint, which appears whole or not at all.

    It is written under another name, synced, and renamed.

    Args:
        path: the file; its folder is made if absent.
        state: nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.

    Raises:
        TypeError: for a value of another type, with its place in the state.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_encode(state, "", tensors))
    metadata = {"state": tree, "sha256": _digest(tree, tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():  # nothing of ours, and a file cannot replace it
        path.rename(path.with_name(f"{path.name}.aside-{secrets.token_hex(4)}"))
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def check(state: Any) -> None:
    """Raises TypeError where ``save`` would, before there is anything to lose."""
    _encode(state, "", {})


def load(path: Path) -> dict[str, Any]:
    """Returns the state that ``save`` was given, its tensors on the CPU.

    Raises:
        Damaged: where the file is not a checkpoint or any of its bits has changed.
    """
    try:
        # Only then is it opened: a pipe would wait for its other end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is no file")
        with open(path, "rb") as held:
            # safetensors takes no name that is not UTF-8.
            plain = str(path) == str(path).encode(errors="replace").decode()
            name = path if plain else f"/dev/fd/{held.fileno()}"
            with safetensors.safe_open(name, framework="pt") as file:
                metadata = file.metadata() or {}
                tree, sha256 = metadata["state"], metadata["sha256"]
                tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
        if _digest(tree, tensors) != sha256:
            raise ValueError("its checksum differs")
        state = _decode(json.loads(tree), tensors)
        if not isinstance(state, dict):
            raise ValueError("its state is no mapping")
    except Exception as error:  # whatever parsers raise at a stranger's bytes
        raise Damaged(path, brief(error)) from error
    return state


def step_path(folder: Path, step: int) -> Path:
    """Returns where the checkpoint of optimizer step ``step`` belongs."""
    return folder / f"step-{step:09d}{SUFFIX}"


def _steps(folder: Path) -> dict[int, Path]:
    """Returns what stands in the places of checkpoints, by step, the oldest first."""
    found = {
        int(digits): path
        for path in folder.glob(f"step-*{SUFFIX}")
        if (digits := path.name.removeprefix("step-").removesuffix(SUFFIX)).isdecimal()
    }
    return dict(sorted(found.items()))


def newest(folder: Path) -> Path | None:
    """Returns the checkpoint with the most steps in ``folder``, or None."""
    return next(reversed(_steps(folder).values()), None)


def load_newest(
    folder: Path, check: Callable[[Path, dict[str, Any]], None]
) -> tuple[Path, dict[str, Any]] | None:
    """Returns the newest whole checkpoint with its path, and warns of damaged ones it passes over.

    None where there is no checkpoint at all.

    Args:
        folder: of the checkpoints.
        check: raises ``Damaged`` for a state that cannot be gone on from.

    Raises:
        ValueError: where all are damaged.
    """
    paths = list(reversed(_steps(folder).values()))
    for path in paths:
        try:
            state = load(path)
            check(path, state)
            return path, state
        except Damaged as error:
            left = "" if path is paths[-1] else " The run goes on from the one before it."
            warnings.warn(f"{error}{left}", stacklevel=2)
    if paths:
        raise ValueError(f"{folder} must hold a whole checkpoint; all {len(paths)} are damaged.")
    return None


def prune(folder: Path, keep: int, step: int) -> None:
    """Removes all but the newest ``keep`` checkpoints up to step ``step``.

    Later ones, which a run that resumes has passed over, do not count; the run writes them anew.
    """
    done = [path for number, path in _steps(folder).items() if number <= step]
    for old in done[:-keep]:
        with contextlib.suppress(IsADirectoryError, PermissionError):  # no checkpoint of ours
            old.unlink()


def _digest(tree: str, tensors: dict[str, Tensor]) -> str:
    """Returns the SHA-256 over the JSON and the tensors' bytes in the order of their names."""
    digest = hashlib.sha256(tree.encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Returns ``value`` as JSON, its tensors put aside in ``tensors`` under their places."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in SCALARS:
        return value
    kind = type(value).__name__
    if isinstance(value, Tensor):
        while place in tensors:  # the keys 0 and "0" spell the same place
            place += "'"
        tensors[place] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}

    def inside(key: Any, item: Any) -> Any:
        return _encode(item, _place(place, key), tensors)

    # A long history is numbers by name, which need no place: those are looked at all at once.
    if kind in MAPPINGS and isinstance(value, dict):
        if SCALARS.issuperset(map(type, itertools.chain(value, value.values()))):
            return {kind: list(value.items())}
        return {kind: [[_key(key, place), inside(key, item)] for key, item in value.items()]}
    if kind in SEQUENCES and isinstance(value, list | tuple):
        if SCALARS.issuperset(map(type, value)):
            return {kind: list(value)}
        return {kind: [inside(number, item) for number, item in enumerate(value)]}
    raise TypeError(f"a checkpoint holds tensors, numbers and strings; got {kind} at {place}.")


def _place(place: str, key: Any) -> str:
    return f"{place}/{key}".lstrip("/")


def _key(key: Any, place: str) -> Any:
    if type(key) not in SCALARS:
        got = f"{type(key).__name__} at {_place(place, key)}"
        raise TypeError(f"a checkpoint's keys are numbers or strings; got {got}.")
    return key


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns the value that ``_encode`` turned into ``tree``."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind in SEQUENCES:
        return SEQUENCES[kind](_decode(item, tensors) for item in content)
    return MAPPINGS[kind]({key: _decode(item, tensors) for key, item in content})
