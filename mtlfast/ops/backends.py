"""The backends: a record of each, and the one place where one is chosen."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch

from mtlfast.ops import fakes, native
from mtlfast.ops.catalogue import FAMILIES, IN_WORDS

_NARROW = (torch.float32, torch.bfloat16, torch.float16)
_ALL = (*_NARROW, torch.float64)


# Read once: torch.compile follows the choice, and could not follow these.
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
_TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_chosen: dict[tuple[str, str, torch.dtype, str], str] = {}


def _triton_reason(device: str) -> str | None:
    if not _TRITON_INSTALLED:
        return "triton is not installed: pip install 'mtlfast[triton]'"
    if device == "cpu":
        if _TRITON_INTERPRETED:
            return None
        return "Triton runs on the CPU only in its interpreter: set TRITON_INTERPRET=1"
    if device != "cuda":
        return f"there are no Triton kernels for {device}; use backend='reference'"
    return None if torch.cuda.is_available() else native.NO_GPU


@functools.cache
def _kernels(family: str) -> ModuleType:
    module = importlib.import_module(f"mtlfast.kernels.{family}")
    fakes.register("mtlfast_triton", family)
    return module


@dataclass(frozen=True)
class Backend:
    """The record of a backend.

    Attributes:
        name: as `backend` of a loss names it.
        runs: by device type, the families and the dtypes that it runs there; None: all, anywhere.
        reason: why it can't run on a device type, with the remedy; None where it can.
        ops: the module whose ops run a family; None: the specification itself runs.
        wide: whether rows that are not normalised are compared in float64 in its in-batch losses:
            far from the origin |x|^2 + |y|^2 - 2 x.y lacks digits of d^2 that float32 can hold.
    """

    name: str
    runs: Mapping[str, tuple[Collection[str], Collection[torch.dtype]]] | None = None
    reason: Callable[[str], str | None] = lambda device: None
    ops: Callable[[str], ModuleType] | None = None
    wide: bool = False


BACKENDS = {
    "native": Backend(
        "native",
        {"cpu": (FAMILIES, _ALL), "cuda": (("pointwise", "rows"), _NARROW)},
        native.reason_absent,
        lambda family: native,
        wide=True,
    ),
    "triton": Backend(
        "triton",
        {"cpu": (FAMILIES, _NARROW), "cuda": (FAMILIES, _NARROW)},
        _triton_reason,
        _kernels,
    ),
    "reference": Backend("reference"),
}
NAMES = ("auto", *BACKENDS)


def reason_absent(backend: str, device: str) -> str | None:
    """Returns why `backend` can't run on `device`, with the remedy; None when it can."""
    return BACKENDS[backend].reason(device)


def _reason(backend: str, device: str, dtype: torch.dtype, family: str) -> str | None:
    """The same for one family's losses in one dtype."""
    record = BACKENDS[backend]
    reason = record.reason(device)
    if reason or record.runs is None:
        return reason
    families, dtypes = record.runs[device]
    if family not in families:
        return f"it has no {IN_WORDS[family]} there; use 'triton' or 'reference'"
    if dtype not in dtypes:
        able = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"it computes {able} there, not {dtype}; use 'reference'"
    return None


def _choose(backend: str, device: str, dtype: torch.dtype, family: str) -> str:
    if backend == "auto":
        order = ("native", "triton") if device == "cuda" else ("native",)
        usable = (name for name in order if not _reason(name, device, dtype, family))
        backend = next(usable, "reference")
    if reason := _reason(backend, device, dtype, family):
        return f"backend={backend!r} can't run on {device}: {reason}."
    if backend == "triton":
        _kernels(family)
    return backend


def _named(backend: str, device: str, dtype: torch.dtype, family: str) -> str:
    """Returns the name of a backend that runs, or why there is none."""
    key = (backend, device, dtype, family)
    if key not in _chosen:
        _chosen[key] = _choose(*key)
    return _chosen[key]


# A graph takes the answer as it is: a guard on what is remembered would fail in the next call. This
# is what torch.compiler.assume_constant_result does, but for the seconds that importing it takes.
_named._dynamo_marked_constant = True  # type: ignore[attr-defined]


def choose(backend: str, device: str, dtype: torch.dtype, family: str) -> str:
    """Returns the name of the backend that runs a family's losses.

    An explicitly named backend runs or raises; "auto" takes native, then triton (on a GPU), then
    the reference.

    Raises:
        RuntimeError: where the named backend can't run, with the reason and the remedy.
    """
    name = _named(backend, device, dtype, family)
    if name not in BACKENDS:
        raise RuntimeError(name)
    return name


def select(
    backend: str, device: str, dtype: torch.dtype, family: str = "pointwise"
) -> ModuleType | None:
    """Returns the module of the backend's ops, as ``choose`` chooses it; None: the reference.

    Raises:
        RuntimeError: as ``choose``.
    """
    name = choose(backend, device, dtype, family)
    if name == "native":
        return native
    if name == "reference":
        return None
    import mtlfast.kernels as kernels  # a graph can't trace _kernels

    module: ModuleType = getattr(kernels, family)
    return module


def available_backends() -> dict[str, set[str]]:
    """Returns the device types on which each backend can run here.

    Example:
        >>> "cpu" in available_backends()["reference"]
        True
    """
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return {name: {d for d in devices if not reason_absent(name, d)} for name in BACKENDS}


def info() -> str:
    """Returns versions, backends and why one is absent, CPU instruction set, CUDA architectures.

    Example:
        >>> [line for line in info().splitlines() if line.startswith("reference   cpu")]
        ['reference   cpu   yes']
    """
    from importlib.metadata import PackageNotFoundError, version

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    lines = [f"{name:12}{installed(name)}" for name in ("mtlfast", "torch", "triton")]
    for name in BACKENDS:
        for device in ("cpu", "cuda"):
            reason = reason_absent(name, device)
            if name == "reference" and device == "cuda" and not torch.cuda.is_available():
                reason = native.NO_GPU
            lines.append(f"{name:12}{device:6}{'yes' if reason is None else f'no: {reason}'}")
    if native.PATH is not None:
        lines.append(f"{'compiler':12}{native.FACTS['compiler']}")
        lines.append(f"{'CPU':12}{native.FACTS['cpu']}, {torch.get_num_threads()} threads")
    if native.LIBRARY:
        lines.append(f"{'library':12}{native.PATH} (MTLFAST_LIBRARY)")
    if native.FACTS.get("cuda"):
        lines.append(
            f"{'CUDA':12}{native.FACTS['cuda']}, built for {native.FACTS['cuda_architectures']}"
        )
    return "\n".join(lines)
