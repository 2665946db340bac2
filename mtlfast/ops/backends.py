"""The one place where a backend is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import torch

from mtlfast.ops import native

NAMES = ("auto", "native", "triton", "reference")
_NARROW = (torch.float32, torch.bfloat16, torch.float16)


# Read once: torch.compile follows the choice, and could not follow these.
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
_TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_chosen: dict[tuple[str, str, torch.dtype, str], str] = {}


def _triton_reason(device: str) -> str | None:
    if not _TRITON_INSTALLED:
        return "triton is not installed: pip install triton"
    if device == "cpu":
        if _TRITON_INTERPRETED:
            return None
        return "Triton runs on the CPU only in its interpreter: set TRITON_INTERPRET=1"
    return None if torch.cuda.is_available() else "PyTorch sees no GPU"


def reason_absent(backend: str, device: str) -> str | None:
    """Returns why `backend` can't run on `device`, with the remedy; None when it can."""
    if backend == "native":
        return native.reason_absent(device)
    return _triton_reason(device) if backend == "triton" else None


def _reason(backend: str, device: str, dtype: torch.dtype, family: str) -> str | None:
    """The same for one family's losses in one dtype."""
    reason = reason_absent(backend, device)
    if reason or backend == "reference":
        return reason
    if (backend, device, family) == ("native", "cuda", "inbatch"):
        return "its losses on a whole batch run on the CPU; use 'triton'"
    if dtype in _NARROW or (backend, device) == ("native", "cpu"):
        return None
    return f"it computes float32, bfloat16 and float16 on {device}, not {dtype}; use 'reference'"


def _choose(backend: str, device: str, dtype: torch.dtype, family: str) -> str:
    if backend == "auto":
        order = ("native", "triton") if device == "cuda" else ("native",)
        usable = (name for name in order if not _reason(name, device, dtype, family))
        backend = next(usable, "reference")
    if reason := _reason(backend, device, dtype, family):
        return f"backend={backend!r} can't run on {device}: {reason}."
    if backend == "triton":
        importlib.import_module(f"mtlfast.kernels.{family}")
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


def select(
    backend: str, device: str, dtype: torch.dtype, family: str = "pointwise"
) -> ModuleType | None:
    """Returns the module whose ops run a family's losses, or None for the reference.

    An explicitly named backend runs or raises; "auto" takes native, then triton (on a GPU), then
    the reference.

    Raises:
        RuntimeError: where the named backend can't run, with the reason and the remedy.
    """
    name = _named(backend, device, dtype, family)
    if name == "native":
        return native
    if name == "reference":
        return None
    if name != "triton":
        raise RuntimeError(name)
    import mtlfast.kernels as kernels

    module: ModuleType = getattr(kernels, family)
    return module


def available_backends() -> dict[str, set[str]]:
    """Returns the device types on which each backend can run here.

    Example:
        >>> "cpu" in available_backends()["reference"]
        True
    """
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    names = NAMES[1:]
    return {name: {d for d in devices if not reason_absent(name, d)} for name in names}


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
    for name in NAMES[1:]:
        for device in ("cpu", "cuda"):
            reason = reason_absent(name, device)
            if name == "reference" and device == "cuda" and not torch.cuda.is_available():
                reason = "PyTorch sees no CUDA device"
            lines.append(f"{name:12}{device:6}{'yes' if reason is None else f'no: {reason}'}")
    if native._C is not None:
        lines.append(f"{'compiler':12}{native.BUILD['compiler']}")
        lines.append(f"{'CPU':12}{native._C.cpu_isa()}, {torch.get_num_threads()} threads")
    if native.LIBRARY:
        lines.append(f"{'library':12}{os.path.abspath(native.LIBRARY)} (MTLFAST_LIBRARY)")
    if native.BUILD.get("cuda"):
        lines.append(
            f"{'CUDA':12}{native.BUILD['cuda']}, built for {native.BUILD['cuda_architectures']}"
        )
    return "\n".join(lines)
