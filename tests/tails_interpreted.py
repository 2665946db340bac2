"""The tails of tails.py in Triton's interpreter: run by test_tails.py in a process of its own."""

import pytest
import torch
import triton_interpreted  # noqa: F401 -- it rounds the interpreter's exp and log once
from tails import TAILS, assert_tail

each_tail = pytest.mark.parametrize("index", range(len(TAILS)), ids=lambda i: str(TAILS[i]))


@each_tail
@pytest.mark.parametrize("label", [0, 1])
def test_confident_logits_keep_their_digits(index, label):
    dtype = (torch.float32, torch.float32, torch.bfloat16, torch.float16)[(index + label) % 4]
    assert_tail(index, label, torch.float32, "cpu", "triton")
    assert_tail(index, label, dtype, "cpu", "triton")
