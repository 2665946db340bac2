"""Safe, atomic checkpoints: tensors by safetensors, everything else as JSON, nothing executed on
load.

A checkpoint is one safetensors file. Its tensors are named by their place in the state, as in
``model/backbone.0.weight``; its metadata holds the rest of the state as JSON, in which tuples and
mappings are tagged, so that what comes back is what went in: tuples as tuples, integer keys as
integers. A checksum over all of it tells a damaged file.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mtlfast.writing import write_atomic

__all__ = [
    "check",
    "difference",
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
SCALARS = (bool, int, float, str, type(None))


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
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def check(state: Any) -> None:
    """Raises TypeError where ``save`` would, before there is anything to lose."""
    _encode(state, "", {})


def load(path: Path) -> dict[str, Any]:
    """Returns the state that ``save`` was given, its tensors on the CPU.

    Raises:
        ValueError: where the file is not a checkpoint or any of its bits has changed.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tree, sha256 = file.metadata()["state"], file.metadata()["sha256"]
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if _digest(tree, tensors) != sha256:
            raise ValueError("its checksum differs")
        return _decode(json.loads(tree), tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}).") from error


def step_path(folder: Path, step: int) -> Path:
    """Returns where the checkpoint of optimizer step ``step`` belongs."""
    return folder / f"step-{step:09d}{SUFFIX}"


def newest(folder: Path) -> Path | None:
    """Returns the checkpoint with the most steps in ``folder``, or None."""
    return max(folder.glob(f"step-*{SUFFIX}"), default=None)


def load_newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Returns the newest whole checkpoint with its path, and warns of damaged ones it passes over.

    None where there is no checkpoint at all.

    Raises:
        ValueError: where all are damaged.
    """
    paths = sorted(folder.glob(f"step-*{SUFFIX}"), reverse=True)
    for path in paths:
        try:
            return path, load(path)
        except ValueError as error:
            warnings.warn(f"{error} The run goes on from the one before it.", stacklevel=2)
    if paths:
        raise ValueError(f"{folder} must hold a whole checkpoint; all {len(paths)} are damaged.")
    return None


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` checkpoints of steps."""
    for old in sorted(folder.glob(f"step-*{SUFFIX}"))[:-keep]:
        old.unlink()


def difference(old: Any, new: Any, place: str = "") -> str | None:
    """Returns the first place where two nested states differ, in words, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys: Iterable[Any] = {**old, **new}
        pairs = [(f"{place}.{key}".lstrip("."), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list):
        pairs = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip_longest(old, new))]
    else:
        return None if old == new else f"{place} was {old!r} and is {new!r}"
    return next((found for at, a, b in pairs if (found := difference(a, b, at))), None)


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
    kind = type(value).__name__
    if isinstance(value, Tensor):
        while place in tensors:  # the keys 0 and "0" spell the same place
            place += "'"
        tensors[place] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}
    if type(value) in SCALARS:
        return value
    if kind in MAPPINGS and isinstance(value, dict):
        items = [(key, item, f"{place}/{key}".lstrip("/")) for key, item in value.items()]
        return {kind: [[_key(key, at), _encode(item, at, tensors)] for key, item, at in items]}
    if kind in SEQUENCES and isinstance(value, list | tuple):
        return {kind: [_encode(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]}
    raise TypeError(f"a checkpoint holds tensors, numbers and strings; got {kind} at {place}.")


def _key(key: Any, place: str) -> Any:
    if type(key) not in SCALARS:
        raise TypeError(
            f"a checkpoint's keys are numbers or strings; got {type(key).__name__} at {place}."
        )
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
