"""The tails of tails.py in Triton's interpreter: run by test_triton.py in a process of its own."""

import zlib

import pytest
import torch
import triton_interpreted  # noqa: F401 -- it rounds the interpreter's exp and log once
from accuracy import FOLDER
from backends import NARROW
from tails import TAILS, assert_tail

# Two of three, each with one of the labels in turn, or for `make accuracy` all with both.
DEALT = [
    (index, label)
    for index in range(len(TAILS))
    for label in (0, 1)
    if FOLDER is not None or (index % 3 < 2 and (index + index // 2) % 2 == label)
]
IDS = [f"{TAILS[index]}-{label}" for index, label in DEALT]


def test_every_loss_has_its_turn_with_either_label():
    dealt_to = {(TAILS[index].loss, label) for index, label in DEALT}
    assert dealt_to == {(tail.loss, label) for tail in TAILS for label in (0, 1)}


@pytest.mark.parametrize("labels", [None, torch.int8], ids=["floats", "bytes"])
@pytest.mark.parametrize("index, label", DEALT, ids=IDS)
def test_confident_logits_keep_their_digits(index, label, labels):
    """In one dtype, float32 for half of them; or for `make accuracy` in all. Bytes may be computed
    on their own side.
    """
    turn = zlib.crc32(f"{TAILS[index]} {label}".encode()) % 4
    dealt = [(torch.float32, torch.float32, torch.bfloat16, torch.float16)[turn]]
    for dtype in dealt if FOLDER is None else NARROW:
        assert_tail(index, label, dtype, "cpu", "triton", labels)
