"""Judging the results of a case, every output by the accuracy rule."""

from __future__ import annotations

import zlib
from typing import Any

import scales
import torch
from accuracy import FOLDER, Output, assert_accurate
from batch_cases import Batch, Loss
from row_cases import RowCase
from runnable import Runnable

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def dealt(case: Runnable, dtype: torch.dtype) -> tuple[str, ...]:
    """Returns the reductions to try: one, another for each dtype, or for `make accuracy` all."""
    if FOLDER is not None:
        return case.REDUCTIONS
    turn = zlib.crc32(str(case).encode()) + DTYPES.index(dtype)
    return (case.REDUCTIONS[turn % len(case.REDUCTIONS)],)


def judge(case: Any, dtype: torch.dtype, backend: Any, reduction: str) -> None:
    """Checks all outputs of a case and their gradients, on a backend of backends.py."""
    inputs = case.inputs(dtype, backend.device)
    wide, plainly = inputs.double(), {"reduction": reduction, "backend": "reference"}
    got = case.results(inputs, reduction=reduction, backend=backend.name)
    plain = case.results(inputs, **plainly)
    with scales.truth():
        exact = case.results(wide, **plainly)
    scales_of = scales.of_rows if isinstance(case, RowCase) else scales.of_elements
    scale = scales_of(case, wide, exact, **plainly)
    assert got.keys() == plain.keys() == exact.keys()
    for name, value in got.items():
        if value.is_floating_point():
            output = Output(case.loss, str(backend), dtype, name, f"{case} {reduction}")
            assert_accurate(output, value, plain[name], exact[name], scale[name])
        else:
            assert torch.equal(value, exact[name]), (name, reduction)
