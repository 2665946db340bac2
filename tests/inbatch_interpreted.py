"""The in-batch kernels in Triton's interpreter, on the CPU: run by test_triton_inbatch.py in a
process of its own, because TRITON_INTERPRET must be set before the kernels are imported.
"""

import mtlfast.kernels.inbatch as kernels
import pytest
import torch
from backends import assert_accurate

from mtlfast.ops import inbatch
from mtlfast.ops.reference_inbatch import inbatch as reference

TRIPLET, CONTRASTIVE = "batch_triplet_loss", "batch_contrastive_loss"
ALL, HARD, SEMIHARD = 0.0, 1.0, 2.0
LOSSES = {
    "all": (TRIPLET, [ALL, 0.2, 0.0, 0.0]),
    "all squared": (TRIPLET, [ALL, 0.3, 1.0, 0.0]),
    "all soft": (TRIPLET, [ALL, 0.1, 0.0, 1.0]),
    "hard": (TRIPLET, [HARD, 0.2, 0.0, 0.0]),
    "hard soft squared": (TRIPLET, [HARD, -0.2, 1.0, 1.0]),
    "semihard": (TRIPLET, [SEMIHARD, 0.4, 0.0, 0.0]),
    "semihard soft": (TRIPLET, [SEMIHARD, 0.5, 0.0, 1.0]),
    "contrastive": (CONTRASTIVE, [0.1, 1.2, 0.0]),
    "contrastive squared": (CONTRASTIVE, [0.0, 1.5, 1.0]),
}


def _rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _ordinary():
    return _rows(7, 5), torch.tensor([0, 1, 2, 0, 1, 0, 0]), None, None


def _half():
    return _rows(5, 16).bfloat16(), torch.tensor([0, 1, 0, 1, 1]), None, None


def _multi_hot():
    """Labels of two words, some rows with none."""
    labels = torch.zeros(8, 70, dtype=torch.bool)
    for row, label in ((0, 3), (0, 69), (1, 69), (2, 63), (3, 64), (4, 64), (5, 63), (6, 3)):
        labels[row, label] = True
    return _rows(8, 3), labels, None, None


def _reference_set():
    return _rows(4, 4), torch.arange(4) % 3, _rows(13, 4, seed=1), torch.arange(13) % 4


def _tight():
    """Classes a thousandth wide, and equal rows among them: nearly all pairs are near."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    centres = _rows(2, 6)
    centres[1] = centres[0] + 3e-2 * _rows(6, seed=2)
    rows = centres[labels] + 1e-3 * _rows(6, 6, seed=1)
    rows[2] = rows[0]
    return rows, labels, None, None


def _one_class():
    return _rows(4, 3), torch.ones(4), None, None


def _all_distinct():
    return _rows(4, 3), torch.arange(4), None, None


def _zero_row():
    rows = _rows(7, 4)
    rows[2] = 0
    rows[4] *= 1e-14
    return rows, torch.tensor([0, 0, 0, 1, 1, 1, 1]), None, None


def _one_row():
    return _rows(1, 4), torch.zeros(1), _rows(3, 4, seed=1), torch.arange(3)


# Ten microseconds an element, a tenth of a second a program: every loss with a few of the cases.
DEALT = [
    *[(loss, _ordinary, turn % 2 == 0) for turn, loss in enumerate(LOSSES)],
    *[(loss, _reference_set, True) for loss in ("hard", "contrastive")],
    ("all", _reference_set, False),
    *[(loss, _multi_hot, True) for loss in ("all squared", "hard")],
    *[(loss, _tight, True) for loss in ("all", "hard", "contrastive")],
    ("all squared", _tight, False),
    ("contrastive", _one_class, True),
    *[(loss, _all_distinct, True) for loss in ("semihard", "contrastive")],
    ("all soft", _zero_row, True),
    ("all", _half, True),
    ("all", _one_row, True),
]
NAMES = ("loss", "gradient", "gradient of the reference set")
REDUCTIONS = ("nonzero", "mean", "sum")


def _ids(values):
    return " ".join(str(getattr(v, "__name__", v)) for v in values)


def _run(inputs, loss, normalize, reduction, need=True):
    x, labels, y, y_labels = inputs
    return inbatch.forward(
        x, labels, y, y_labels, *LOSSES[loss], normalize, reduction, kernels.__name__,
        need, need and y is not None,
    )  # fmt: skip


def _specified(inputs, loss, normalize, reduction, dtype):
    x, labels, y, y_labels = inputs
    given = [t.to(dtype).requires_grad_() for t in (x, y) if t is not None]
    value = reference(
        given[0], labels, given[-1] if y is not None else None, y_labels,
        *LOSSES[loss], normalize, reduction,
    )  # fmt: skip
    return value.detach(), *torch.autograd.grad(value, given)


# The interpreter rounds between multiplying and adding, and plain PyTorch, which adds the pairs in
# another order, happens to be exact at some elements. Distances of rows of any length come from
# |x|^2 + |y|^2 - 2 x.y, whose terms are larger than they are.
SLACK = 2
SLACK_OF_ANY_LENGTH = 4


def _check(inputs, loss, normalize, reduction):
    got = _run(inputs, loss, normalize, reduction)
    plain = _specified(inputs, loss, normalize, reduction, torch.float32)
    exact = _specified(inputs, loss, normalize, reduction, torch.float64)
    for name, *values in zip(NAMES, got, plain, exact, strict=False):
        assert_accurate(name, *values, slack=SLACK if normalize else SLACK_OF_ANY_LENGTH)
    assert len(plain) == 3 or got[2].numel() == 0


@pytest.mark.parametrize("turn, run", list(enumerate(DEALT)), ids=[_ids(run) for run in DEALT])
def test_losses_and_gradients_match_float64(turn, run):
    loss, make, normalize = run
    _check(make(), loss, normalize, REDUCTIONS[turn % 3])


@pytest.mark.parametrize("loss", ["all", "hard", "semihard soft", "contrastive"])
def test_many_tiles_and_splits_match_float64(loss, monkeypatch):
    """Blocks of 8 columns, several to a split and several splits; and several tiles."""
    rows = _rows(5, 5)
    others = torch.cat([_rows(17, 5, seed=1), rows[:2] + 1e-3])
    inputs = rows, torch.arange(5) % 2, others, torch.arange(19) % 3
    monkeypatch.setattr(inbatch, "TILE", 19 * 3)
    monkeypatch.setattr(kernels, "_BLOCK", 8)
    monkeypatch.setattr(kernels, "_POSITIVES", 4)
    monkeypatch.setattr(kernels, "_PROGRAMS", 6)
    monkeypatch.setattr(kernels, "_NEAR", {"OWNERS": 4, "OTHERS": 4, "WIDTH": 4})
    _check(inputs, loss, True, "mean")


def test_results_repeat_and_need_no_gradient():
    first, second = (_run(_ordinary(), "all soft", True, "mean") for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.equal(first[0], _run(_ordinary(), "all soft", True, "mean", need=False)[0])


@pytest.mark.parametrize("loss", ["all", "hard", "semihard", "contrastive"])
def test_a_nan_reaches_the_loss(loss):
    rows = _rows(4, 2)
    rows[1, 1] = torch.nan
    assert _run((rows, torch.arange(4) % 2, None, None), loss, True, "mean", need=False)[0].isnan()
