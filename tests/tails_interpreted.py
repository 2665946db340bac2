"""The tails of tails.py in Triton's interpreter: run by test_triton.py in a process of its own."""

import zlib

import pytest
import torch
import triton_interpreted  # noqa: F401 -- it rounds the interpreter's exp and log once
from accuracy import FOLDER
from backends import NARROW
from tails import TAILS, assert_tail

each_tail = pytest.mark.parametrize("index", range(len(TAILS)), ids=lambda i: str(TAILS[i]))


@each_tail
@pytest.mark.parametrize("label", [0, 1])
def test_confident_logits_keep_their_digits(index, label):
    """In one dtype, float32 for half of them; or for `make accuracy` in all."""
    turn = zlib.crc32(f"{TAILS[index]} {label}".encode()) % 4
    dealt = [(torch.float32, torch.float32, torch.bfloat16, torch.float16)[turn]]
    for dtype in dealt if FOLDER is None else NARROW:
        assert_tail(index, label, dtype, "cpu", "triton")
