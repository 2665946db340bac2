"""Judging the results of a case, every output by the accuracy rule."""

from __future__ import annotations

import zlib
from typing import Any

import scales
import torch
from accuracy import FOLDER, Output, assert_accurate
from batch_cases import Batch, Loss
from row_cases import RowCase

from mtlfast.ops.catalogue import FAMILIES

BATCH_REDUCTIONS = FAMILIES["inbatch"]
BATCH_OUTPUTS = ("loss", "d embeddings", "d ref_embeddings")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def dealt(case: object, dtype: torch.dtype, reductions: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the reductions to try: one, another for each dtype, or for `make accuracy` all."""
    if FOLDER is not None:
        return reductions
    turn = zlib.crc32(str(case).encode()) + DTYPES.index(dtype)
    return (reductions[turn % len(reductions)],)


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


def judge_batch(
    loss: Loss, name: str, batch: Batch, backend: Any, reduction: str, run: Any = None
) -> None:
    """Checks an in-batch loss and its gradients; `run` computes them, or else the backend does.

    Which of equal rows is the hardest, is chance: their gradients are judged together.
    """
    run = batch.gradients if run is None else run
    dtype, wide = batch.embeddings.dtype, batch.to(torch.float64, backend.device)
    plainly = {"reduction": reduction, "backend": "reference"}
    got = run(loss, reduction=reduction, backend=backend.name)
    plain = batch.gradients(loss, **plainly)
    with scales.truth():
        exact = wide.gradients(loss, **plainly)
    results = [got, plain, exact, scales.of_batch(loss, wide, **plainly)]
    if loss.options.get("mining") == "hard":
        results = [batch.shared_by_equal_rows(result) for result in results]
    for output, *four in zip(BATCH_OUTPUTS, *results, strict=False):
        case = f"{name}, {loss} {reduction}"
        assert_accurate(Output(loss.function.__name__, str(backend), dtype, output, case), *four)
