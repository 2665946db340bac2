"""The native backend: loads the native library, which registers torch.ops.mtlfast.

The library knows nothing of Python: any version loads it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from typing import Any

import torch

from mtlfast.ops import fakes
from mtlfast.ops.catalogue import KERNELS, LOSSES, REDUCTIONS

# A library built before, maybe elsewhere, that takes the place of the installed one.
LIBRARY = os.environ.get("MTLFAST_LIBRARY")
_INSTALLED = os.path.join(os.path.dirname(os.path.dirname(__file__)), "libmtlfast.so")

NO_GPU = "PyTorch sees no GPU"


def _open(path: str) -> dict[str, Any]:
    """Loads a library, and returns its facts; raises OSError, ValueError or AttributeError."""
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise error.__cause__ or error from None
    tell = ctypes.CDLL(path).mtlfast_facts
    tell.restype = ctypes.c_char_p
    facts: dict[str, Any] = json.loads(tell())
    known: dict[str, list[Any]] = {
        family: [[name, ", ".join(LOSSES[name].parameters)] for name in names]
        for family, names in KERNELS.items()
    }
    known["reductions"] = list(REDUCTIONS)
    for what, names in known.items():
        theirs = (facts.get("losses", {}) | facts).get(what)
        if theirs != names:
            raise ValueError(
                f"it was built for another version of mtlfast: {what} {theirs}, not {names}"
            )
    return facts


def _load(path: str) -> dict[str, Any]:
    """Returns the facts of a library; raises ImportError, one line, where it does not load."""
    try:
        if not os.path.isfile(path):
            raise OSError("there is no such file")
        return _open(path)
    except (AttributeError, OSError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        if LIBRARY:
            raise ImportError(
                "MTLFAST_LIBRARY must name a native library of mtlfast that loads here; "
                f"got {path}: {why}. Unset it to use the installed one."
            ) from None
        raise ImportError(
            f"the native library must be of this version of mtlfast and load here; got {path}: "
            f"{why}. Install mtlfast again."
        ) from None


PATH: str | None = os.path.abspath(LIBRARY) if LIBRARY else _INSTALLED
if not LIBRARY and not os.path.exists(_INSTALLED):
    PATH = None
FACTS: dict[str, Any] = {} if PATH is None else _load(PATH)

if PATH is not None:
    for _family in ("pointwise", "rows"):
        fakes.register("mtlfast", _family)
    pointwise_forward = torch.ops.mtlfast.pointwise_forward.default
    pointwise_backward = torch.ops.mtlfast.pointwise_backward.default
    rows_forward = torch.ops.mtlfast.rows_forward.default
    rows_backward = torch.ops.mtlfast.rows_backward.default
    # Called inside the op of ops/inbatch.py alone.
    inbatch_units = torch.ops.mtlfast.inbatch_units.default
    inbatch_mine = torch.ops.mtlfast.inbatch_mine.default
    inbatch_totals = torch.ops.mtlfast.inbatch_totals.default
    inbatch_weigh = torch.ops.mtlfast.inbatch_weigh.default
    inbatch_near = torch.ops.mtlfast.inbatch_near.default
    inbatch_project = torch.ops.mtlfast.inbatch_project.default


def reason_absent(device: str) -> str | None:
    """Returns why the native backend can't run on `device`, with the remedy; None when it can."""
    if PATH is None:
        return (
            "this installation has no native part: install a C++ compiler, then, in the checkout, "
            "pip install --no-build-isolation --force-reinstall --no-deps ."
        )
    if device == "cpu":
        return None
    if device != "cuda":
        return f"there are no native kernels for {device}; use backend='triton' or 'reference'"
    if not FACTS["cuda"]:
        return "it was built without CUDA: put nvcc on the PATH and reinstall, or use 'triton'"
    if torch.version.hip:
        return "its CUDA kernels do not run on ROCm; use backend='triton'"
    if not torch.cuda.is_available():
        return NO_GPU
    capability = torch.cuda.get_device_capability()
    if not built_for(FACTS["cuda_architectures"], capability):
        return (
            f"it was built for {FACTS['cuda_architectures']}, and this GPU is {capability[0]}."
            f"{capability[1]}: set TORCH_CUDA_ARCH_LIST and reinstall, or use 'triton'"
        )
    return None


def built_for(architectures: str, capability: tuple[int, int]) -> bool:
    """Returns whether a build for `architectures`, as in "8.0;9.0+PTX", runs on a GPU.

    Machine code runs on its own major version from its minor version on; PTX on all later GPUs.
    """
    for major, minor, ptx in re.findall(r"(\d+)\.(\d+)[af]?(\+PTX)?", architectures):
        built = (int(major), int(minor))
        if built <= capability and (ptx or built[0] == capability[0]):
            return True
    return architectures == "native"
