"""The native backend: loads mtlfast._C, which registers torch.ops.mtlfast, and its fake kernels."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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

# Ops take losses and reductions by number: a str would leak at every call, in torch's conversions.
NUMBERS: dict[str, int] = {}
if _C is not None:
    for _names in (*_C.losses().values(), _C.reductions()):
        NUMBERS.update({name: number for number, name in enumerate(_names)})


def _by_name(op: Any, *places: int) -> Any:
    """Returns `op` taking names in those places of its arguments, counted from the end."""

    def call(*arguments: Any) -> Any:
        given = list(arguments)
        for place in places:
            given[place] = NUMBERS[given[place]]
        return op(*given)

    return call


def _one_device(*arguments: Any) -> None:
    """Refuses a mixture of meta tensors and others, which the dispatcher lets through."""
    devices = {str(t.device) for t in arguments if isinstance(t, Tensor)}
    if len(devices) > 1:
        raise RuntimeError(f"mtlfast: all tensors must be on one device; got {sorted(devices)}.")


if _C is not None:
    pointwise_forward = _by_name(torch.ops.mtlfast.pointwise_forward.default, -3, -1)
    pointwise_backward = _by_name(torch.ops.mtlfast.pointwise_backward.default, -3, -1)
    rows_forward = _by_name(torch.ops.mtlfast.rows_forward.default, -3, -1)
    rows_backward = _by_name(torch.ops.mtlfast.rows_backward.default, -4, -2)
    # Called inside the op of ops/inbatch.py alone, so no fake kernels.
    inbatch_units = torch.ops.mtlfast.inbatch_units.default
    inbatch_mine = _by_name(torch.ops.mtlfast.inbatch_mine.default, -2)
    inbatch_totals = _by_name(torch.ops.mtlfast.inbatch_totals.default, -1)
    inbatch_weigh = torch.ops.mtlfast.inbatch_weigh.default
    inbatch_near = torch.ops.mtlfast.inbatch_near.default
    inbatch_project = torch.ops.mtlfast.inbatch_project.default

    @torch.library.register_fake("mtlfast::pointwise_forward")
    def _(logits: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _one_device(logits, *rest)
        compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
        tasks = logits.shape[1]
        none = rest[-1] == NUMBERS["none"]
        return (
            torch.empty_like(logits) if none else logits.new_empty((), dtype=compute),
            logits.new_empty(tasks, dtype=compute),
            logits.new_empty(tasks, dtype=torch.int64),
            logits.new_empty(tasks, dtype=compute),
        )

    @torch.library.register_fake("mtlfast::pointwise_backward")
    def _(
        grad_loss: Tensor | None, grad_task_loss: Tensor | None, logits: Tensor, *rest: object
    ) -> Tensor:
        _one_device(grad_loss, grad_task_loss, logits, *rest)
        return torch.empty_like(logits)

    @torch.library.register_fake("mtlfast::rows_forward")
    def _(rows: Sequence[Tensor], *rest: object) -> tuple[Tensor, Tensor]:
        _one_device(*rows, *rest)
        first = rows[0]
        compute = torch.float64 if first.dtype == torch.float64 else torch.float32
        none = rest[-1] == NUMBERS["none"]
        return (
            first.new_empty(len(first) if none else (), dtype=first.dtype if none else compute),
            first.new_empty((), dtype=compute),
        )

    @torch.library.register_fake("mtlfast::rows_backward")
    def _(grad_loss: Tensor, rows: Sequence[Tensor], *rest: Any) -> list[Tensor]:
        _one_device(grad_loss, *rows, *rest)
        return [rows[w].new_empty(rows[w].shape) for w in rest[-1]]


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
