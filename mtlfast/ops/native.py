"""The native backend: loads mtlfast._C, which registers torch.ops.mtlfast."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from typing import Any

import torch

from mtlfast.ops import fakes

# A library built before, maybe elsewhere, that takes the place of the installed one.
LIBRARY = os.environ.get("MTLFAST_LIBRARY")


def _load(path: str) -> Any:
    """Returns the extension in a file; raises ImportError, one line, where it does not load."""
    loader = importlib.machinery.ExtensionFileLoader("mtlfast._C", path)
    spec = importlib.util.spec_from_file_location("mtlfast._C", path, loader=loader)
    try:
        if not os.path.isfile(path):
            raise ImportError("there is no such file")
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ImportError(
            "MTLFAST_LIBRARY must name a native library of mtlfast that loads here; "
            f"got {path}: {why}. Unset it to use the installed one."
        ) from None
    sys.modules["mtlfast._C"] = module
    return module


def _installed() -> Any:
    """Returns mtlfast._C, or None where this installation has none."""
    try:
        return importlib.import_module("mtlfast._C")
    except ModuleNotFoundError as error:
        if error.name != "mtlfast._C":
            raise
    return None


_C = _load(os.path.abspath(LIBRARY)) if LIBRARY else _installed()

BUILD: dict[str, str] = {} if _C is None else _C.build_info()

if _C is not None:
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
    if _C is None:
        return (
            "this installation has no native part: install a C++ compiler, then, in the checkout, "
            "pip install --no-build-isolation --force-reinstall --no-deps ."
        )
    if device == "cpu":
        return None
    if device != "cuda":
        return f"there are no native kernels for {device}; use backend='triton' or 'reference'"
    if not BUILD["cuda"]:
        return "it was built without CUDA: put nvcc on the PATH and reinstall, or use 'triton'"
    if torch.version.hip:
        return "its CUDA kernels do not run on ROCm; use backend='triton'"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    capability = torch.cuda.get_device_capability()
    if not built_for(BUILD["cuda_architectures"], capability):
        return (
            f"it was built for {BUILD['cuda_architectures']}, and this GPU is {capability[0]}."
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
