"""The in-batch losses by the accuracy rule: every mining on batches easy, tight, tiny and tied."""

import zlib

import pytest
import torch
from accuracy import FOLDER
from backends import each_fused_inbatch_backend as each_fused_backend
from batch_cases import BATCHES, LOSSES, Batch, clear_batch, each_batch_case
from judged import BATCH_REDUCTIONS, dealt, judge_batch

pytestmark = pytest.mark.usefixtures("one_thread")


@each_fused_backend
@each_batch_case
def test_losses_and_gradients_match_float64(name, loss, backend):
    """In every other dtype, in turn, or for `make accuracy` in all."""
    turn, every = (0, 1) if FOLDER is not None else (zlib.crc32(f"{name} {loss}".encode()) % 2, 2)
    for dtype in backend.dtypes[turn::every]:
        batch = clear_batch(BATCHES[name], loss, dtype).to(dtype, backend.device)
        for reduction in dealt((name, str(loss)), dtype, BATCH_REDUCTIONS):
            judge_batch(loss, name, batch, backend, reduction)


@each_fused_backend
@pytest.mark.parametrize("loss", [LOSSES[i] for i in (0, 5, 10, 15)], ids=str)
def test_larger_batches_match_float64(loss, backend):
    """128 rows: many members of a class are sorted, where few are gone through one by one."""
    make = torch.Generator().manual_seed(7)
    rows, labels = torch.randn(256, 16, generator=make), torch.randint(0, 2, (256,), generator=make)
    batch = Batch(rows[:16], labels[:16], rows, labels).to(torch.float32, backend.device)
    judge_batch(loss, "larger", batch, backend, "sum")
