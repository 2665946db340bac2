"""The README's programs run, and give what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(import .*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def run(block):
    """Returns what a program prints and the names it defines."""
    printed, names = io.StringIO(), {}
    torch.manual_seed(0)
    with contextlib.redirect_stdout(printed):
        exec(compile(block, str(README), "exec"), names)
    return printed.getvalue().split(), names


def block_with(text):
    (block,) = [block for block in BLOCKS if text in block]
    return block


def test_missing_labels_are_left_out():
    _, names = run(block_with("return_tasks"))
    missing = names["target"].isnan()
    assert names["logits"].grad[missing].eq(0).all() and names["logits"].grad[~missing].ne(0).all()
    assert names["tasks"].count.tolist() == [4, 3, 3]


def test_the_trainers_program_learns_every_task(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    block = block_with("Trainer(")
    assert len(block.rstrip().splitlines()) <= 30
    printed, names = run(block)
    scores = names["trainer"].evaluate(names["test"])
    assert scores["digit"]["metrics"]["accuracy"] > 0.8 and printed[0] == "digit"
    assert all(scores[name]["metrics"]["auroc"] > 0.9 for name in ("even", "large", "by 3"))
    pictures = {path.name for path in (tmp_path / "runs/readme").iterdir()}
    assert pictures == {"history.csv", "weights.png", "losses.png", "checkpoints"}


def test_an_embedding_of_digits_learns_to_retrieve_them():
    pytest.importorskip("sklearn")
    before, after = map(float, run(block_with("BatchTripletLoss"))[0])
    assert before < 0.5 and after > 0.8
