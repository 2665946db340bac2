"""The in-batch kernels in Triton's interpreter, on the CPU: run by test_triton.py in a
process of its own, because TRITON_INTERPRET must be set before the kernels are imported.
"""

import mtlfast.kernels.inbatch as kernels
import pytest
import torch
from accuracy import FOLDER
from backends import Backend
from batch_cases import EXACT, Batch, Loss, clear_batch, lattice
from judged import BATCH_REDUCTIONS, judge_batch

import mtlfast.functional as MF
from mtlfast.ops import inbatch

TRITON = Backend("triton", "cpu")


def _triplet(mining, margin, **options):
    return Loss(MF.batch_triplet_loss, {"margin": margin, "mining": mining, **options})


def _contrastive(pos_margin, neg_margin, **options):
    margins = {"pos_margin": pos_margin, "neg_margin": neg_margin}
    return Loss(MF.batch_contrastive_loss, {**margins, **options})


LOSSES = {
    "all": _triplet("all", 0.2),
    "all squared": _triplet("all", 0.3, squared=True),
    "all soft": _triplet("all", 0.1, soft=True),
    "hard": _triplet("hard", 0.2),
    "hard soft squared": _triplet("hard", -0.2, squared=True, soft=True),
    "semihard": _triplet("semihard", 0.4),
    "semihard soft": _triplet("semihard", 0.5, soft=True),
    "contrastive": _contrastive(0.1, 1.2),
    "contrastive squared": _contrastive(0.0, 1.5, squared=True),
}


def _rows(make, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=make)


def _ordinary(make):
    return Batch(_rows(make, 7, 5), torch.tensor([0, 1, 2, 0, 1, 0, 0]))


def _small(make):
    return Batch(1e-2 * _rows(make, 7, 5), torch.tensor([0, 1, 2, 0, 1, 0, 0]))


def _wide(make):
    return Batch(_rows(make, 5, 16), torch.tensor([0, 1, 0, 1, 1]))


def _multi_hot(make):
    """Labels of two words, some rows with none."""
    labels = torch.zeros(8, 70, dtype=torch.bool)
    for row, label in ((0, 3), (0, 69), (1, 69), (2, 63), (3, 64), (4, 64), (5, 63), (6, 3)):
        labels[row, label] = True
    return Batch(_rows(make, 8, 3), labels)


def _reference_set(make):
    labels = torch.arange(4) % 3, torch.arange(13) % 4
    return Batch(_rows(make, 4, 4), labels[0], _rows(make, 13, 4), labels[1])


def _tight(make):
    """Classes a thousandth wide, and equal rows among them: nearly all pairs are near."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    centres = _rows(make, 2, 6)
    centres[1] = centres[0] + 3e-2 * _rows(make, 6)
    rows = centres[labels] + 1e-3 * _rows(make, 6, 6)
    rows[2] = rows[0]
    return Batch(rows, labels)


def _small_and_tight(make):
    tight = _tight(make)
    return tight._replace(embeddings=1e-2 * tight.embeddings)


def _tied(make):
    return Batch(lattice(make, 8, 4), torch.tensor([0, 1, 2, 0, 1, 0, 0, 2]))


def _one_class(make):
    return Batch(_rows(make, 4, 3), torch.ones(4, dtype=torch.long))


def _all_distinct(make):
    return Batch(_rows(make, 4, 3), torch.arange(4))


def _zero_row(make):
    rows = _rows(make, 7, 4)
    rows[2] = 0
    rows[4] *= 1e-14
    return Batch(rows, torch.tensor([0, 0, 0, 1, 1, 1, 1]))


def _one_row(make):
    labels = torch.zeros(1, dtype=torch.long), torch.arange(3)
    return Batch(_rows(make, 1, 4), labels[0], _rows(make, 3, 4), labels[1])


EXACT.append(_tied)
# Ten microseconds an element, a tenth of a second a program: every loss with a few of the cases.
DEALT = [
    *[(loss, _ordinary, turn % 2 == 0) for turn, loss in enumerate(LOSSES)],
    *[(loss, _reference_set, True) for loss in ("hard", "contrastive")],
    ("all", _reference_set, False),
    *[(loss, _multi_hot, True) for loss in ("all squared", "hard")],
    *[(loss, _tight, True) for loss in ("all", "hard", "contrastive")],
    *[(loss, _tight, False) for loss in ("all squared", "contrastive")],
    *[(loss, _small, False) for loss in ("all squared", "semihard soft")],
    *[(loss, _small_and_tight, turn < 1) for turn, loss in enumerate(("all", "hard", "semihard"))],
    *[(loss, _tied, turn < 1) for turn, loss in enumerate(("semihard", "hard"))],
    ("contrastive", _one_class, True),
    *[(loss, _all_distinct, True) for loss in ("semihard", "contrastive")],
    ("all soft", _zero_row, True),
    ("all", _wide, True),
    ("all", _one_row, True),
]


def _dealt(runs):
    """Returns enough of them that every loss and every kind of batch is met, or all."""
    kept, met = [], set()
    for run in reversed(runs):  # the special batches first
        if FOLDER is not None or not {run[0], run[1]} <= met:
            kept.append(run)
            met |= {run[0], run[1]}
    return kept


DEALT = _dealt(DEALT)
NARROW = {_wide: torch.bfloat16}


def _ids(values):
    return " ".join(str(getattr(v, "__name__", v)) for v in values)


def _judge(make, loss, normalize, reduction):
    loss = LOSSES[loss]
    loss = loss._replace(options=loss.options | {"normalize": normalize})
    batch = clear_batch(make, loss, NARROW.get(make, torch.float32))
    judge_batch(loss, make.__name__, batch, TRITON, reduction)


@pytest.mark.parametrize("turn, run", list(enumerate(DEALT)), ids=[_ids(run) for run in DEALT])
def test_losses_and_gradients_match_float64(turn, run):
    loss, make, normalize = run
    _judge(make, loss, normalize, BATCH_REDUCTIONS[turn % 3])


def _near_others(make):
    rows = _rows(make, 5, 5)
    others = torch.cat([_rows(make, 17, 5), rows[:2] + 1e-3])
    return Batch(rows, torch.arange(5) % 2, others, torch.arange(19) % 3)


@pytest.mark.parametrize(
    "loss", ["hard", "semihard soft", "contrastive", *(["all"] if FOLDER is not None else [])]
)
def test_many_tiles_and_splits_match_float64(loss, monkeypatch):
    """Blocks of 8 columns, several to a split and several splits; and several tiles."""
    monkeypatch.setattr(inbatch, "TILE", 19 * 3)
    monkeypatch.setattr(kernels, "_BLOCK", 8)
    monkeypatch.setattr(kernels, "_POSITIVES", 4)
    monkeypatch.setattr(kernels, "_PROGRAMS", 6)
    monkeypatch.setattr(kernels, "_NEAR", {"OWNERS": 4, "OTHERS": 4, "WIDTH": 4})
    _judge(_near_others, loss, True, "mean")


def test_results_repeat_and_need_no_gradient():
    loss, batch = LOSSES["all soft"], _one_class(torch.Generator().manual_seed(0))
    batch = batch.to(torch.float32)
    first, second = (batch.gradients(loss, backend="triton") for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.equal(first[0], loss(batch, backend="triton"))


@pytest.mark.parametrize("loss", ["all", "hard", "semihard", "contrastive"])
def test_a_nan_reaches_the_loss(loss):
    rows = _rows(torch.Generator().manual_seed(0), 4, 2).float()
    rows[1, 1] = torch.nan
    assert LOSSES[loss](Batch(rows, torch.arange(4) % 2), backend="triton").isnan()
