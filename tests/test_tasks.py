"""Properties of a task: every loss it may be given, whatever labels are missing."""

from __future__ import annotations

import copy
import functools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training import BCE, counts, sums

import mtlfast
import mtlfast.functional as MF
from mtlfast.train import Task

MISSING = torch.tensor([False, False, True, False, True, False])
SAME = torch.tensor([1, 0, -1, 1, -1, 0])
CLASSES = torch.tensor([0, 3, -1, 2, -1, 1])
FLAGS = torch.tensor([0, 1, -1, 1, -1, 0], dtype=torch.int8)
VALUES = torch.tensor([0.5, -1.0, math.nan, 2.0, math.nan, 0.0])
TABLE = torch.where(MISSING[:, None], math.nan, torch.linspace(-1, 1, 24).reshape(6, 4))
SOFT = torch.where(MISSING[:, None], math.nan, torch.softmax(3 * TABLE.nan_to_num(), 1))
PIXELS = torch.where(MISSING[:, None, None], -1, torch.arange(24).reshape(6, 2, 2) % 4)
RATES = torch.tensor([1.0, 2.0, 0.5, 1.0])


def pairs(z, same):
    return MF.contrastive_loss(z[:, 0], z[:, 1], same, reduction="none")


class Pairs(nn.Module):
    """A user's module with a learned scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z, same):
        return self.scale * pairs(z, same)


# name: (loss, shape of the output, labels)
LOSSES = {
    "cross entropy": ("cross_entropy", (6, 4), CLASSES),
    "of bytes": ("cross_entropy", (6, 4), CLASSES.to(torch.int8)),
    "of floats": ("cross_entropy", (6, 4), torch.where(MISSING, math.nan, CLASSES)),
    "of probabilities": ("cross_entropy", (6, 4), SOFT),
    "of pixels": ("cross_entropy", (6, 4, 2, 2), PIXELS),
    "weighted": (functools.partial(F.cross_entropy, weight=RATES), (6, 4), CLASSES),
    "smoothed": (functools.partial(F.cross_entropy, label_smoothing=0.1), (6, 4), CLASSES),
    "torch's function": (F.cross_entropy, (6, 4), CLASSES),
    "torch's module": (nn.CrossEntropyLoss(weight=RATES), (6, 4), CLASSES),
    "its own mark": (nn.CrossEntropyLoss(ignore_index=9), (6, 4), CLASSES % 10),
    "nll": ("nll_loss", (6, 4), CLASSES),
    "hinge of classes": (nn.MultiMarginLoss(margin=0.5), (6, 4), CLASSES),
    "bce": (BCE, (6, 1), FLAGS),
    "torch's bce": (nn.BCEWithLogitsLoss(), (6,), FLAGS),
    "our module": (mtlfast.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])), (6, 1), FLAGS),
    "partial of ours": (functools.partial(MF.smooth_l1_loss, beta=0.5), (6, 4), TABLE),
    "huber": (F.huber_loss, (6,), VALUES),
    "double labels": ("huber_loss", (6, 1), VALUES.double()),
    "soft margin": ("soft_margin_loss", (6,), torch.where(MISSING, math.nan, 2.0 * SAME - 1)),
    "elementwise callable": (lambda output, target: (output - target).abs(), (6, 1), VALUES),
    "of each pixel": (
        lambda output, target: F.cross_entropy(output, target, reduction="none"),
        (6, 4, 2, 2),
        PIXELS,
    ),
    "of each row": (lambda output, target: F.pairwise_distance(output, target), (6, 4), TABLE),
    "of many labels": ("multilabel_soft_margin_loss", (6, 4), torch.where(TABLE < 0, 0, SOFT)),
    "pairs": (pairs, (6, 2, 3), SAME),
    "pairs of ours": (MF.contrastive_loss, (6, 2, 3), SAME),
    "pairs by name": ("contrastive_loss", (6, 2, 3), SAME),
    "pairs by module": (mtlfast.ContrastiveLoss(distance="cosine"), (6, 2, 3), SAME),
    "a module that learns": (Pairs(), (6, 2, 3), SAME),
    "triplets": (functools.partial(MF.triplet_margin_loss, swap=True), (6, 3, 3), SAME),
    "hierarchy": (mtlfast.HierarchicalTripletLoss([0.4, 0.2]), (6, 4, 3), SAME),
    "scalar of a batch": (functools.partial(MF.batch_triplet_loss, margin=0.3), (6, 3), SAME),
    "scalar by module": (mtlfast.BatchContrastiveLoss(), (6, 3), SAME),
    "scalar by name": ("batch_contrastive_loss", (6, 3), SAME),
    "many-hot": (
        "batch_triplet_loss",
        (6, 3),
        torch.where(MISSING[:, None], -1, torch.tensor([[1, 0], [0, 1]]).repeat(3, 1)),
    ),
    "scalar": (lambda output, target: F.mse_loss(output, target), (6, 4), TABLE),
    "scalar of unlike shapes": (lambda z, y: z.norm(dim=1).mean() + 0 * y.sum(), (6, 2), TABLE),
    "task losses": (lambda x, y: MF.mse_loss(x, y, return_tasks=True), (6, 4), TABLE),
    "task losses alone": (lambda x, y: MF.l1_loss(x, y, return_tasks=True)[1], (6,), VALUES),
}
PER_ELEMENT = {"partial of ours", "task losses"}


def task_of(loss, name="t", **options):
    return Task(name, **{"output": "y", "target": "t", "loss": loss} | options)


def each(table):
    return pytest.mark.parametrize("case", list(table))


@each(LOSSES)
def test_a_missing_row_changes_neither_loss_nor_gradient_whatever_it_predicts(case):
    loss, shape, target = LOSSES[case]
    torch.manual_seed(0)
    output = torch.randn(shape)
    tasks = [task_of(copy.deepcopy(loss)) for _ in range(2)]
    for task in tasks:
        task.check_output(output, target)
    for poison in (math.nan, math.inf, 1e30):
        poisoned = output.clone()
        poisoned[MISSING] = poison
        poisoned.requires_grad_()
        total = sums(tasks[0], {"y": poisoned}, {"t": target})
        total.sum().backward()
        kept = output[~MISSING].requires_grad_()
        wanted = sums(tasks[1], {"y": kept}, {"t": target[~MISSING]})
        wanted.sum().backward()
        torch.testing.assert_close(total, wanted)
        torch.testing.assert_close(poisoned.grad[~MISSING], kept.grad)
        assert poisoned.grad[MISSING].count_nonzero() == 0
        kept.grad = None


@each(LOSSES)
def test_labels_are_counted_as_the_loss_takes_them(case):
    loss, shape, target = LOSSES[case]
    task = task_of(copy.deepcopy(loss))
    task.check_output(torch.randn(shape), target)
    wanted = 16 if case in PER_ELEMENT or "pixel" in case else 4
    assert counts(task, {"t": target}).tolist() == [wanted]


@each(LOSSES)
def test_nothing_labelled_gives_loss_0_and_gradient_0(case):
    loss, shape, target = LOSSES[case]
    target = target[MISSING].repeat(3, *[1] * (target.dim() - 1))
    task = task_of(copy.deepcopy(loss))
    output = torch.full(shape, math.nan, requires_grad=True)
    total = sums(task, {"y": output}, {"t": target})
    total.sum().backward()
    assert total.tolist() == [0] and output.grad.count_nonzero() == 0
    assert counts(task, {"t": target}).tolist() == [0]


@each(LOSSES)
def test_a_loss_is_the_same_before_and_after_its_form_is_known(case):
    loss, shape, target = LOSSES[case]
    output, task = torch.randn(shape), task_of(copy.deepcopy(loss))
    first = sums(task, {"y": output}, {"t": target})
    torch.testing.assert_close(sums(task, {"y": output}, {"t": target}), first, rtol=0, atol=0)
    assert task.adapter.known


@pytest.mark.parametrize("shape", [(6, 4), (6, 1, 2, 2), (6, 2, 3)])
def test_a_callable_is_called_once_for_a_batch_when_its_form_is_known(shape):
    calls = []

    def loss(output, target):
        calls.append(target)
        return output.flatten(1).sum(1)

    task = task_of(loss)
    task.check_output(torch.randn(shape), SAME)
    calls.clear()
    sums(task, {"y": torch.randn(shape)}, {"t": SAME})
    assert len(calls) == 1


def test_a_scalar_loss_sees_labelled_rows_alone_and_none_at_all_where_there_are_none():
    seen = []
    task = task_of(lambda x, y: seen.append(y) or F.mse_loss(x, y))
    task.check_output(torch.randn(6), VALUES)
    seen.clear()
    sums(task, {"y": torch.randn(6)}, {"t": VALUES})
    sums(task, {"y": torch.randn(6)}, {"t": torch.full((6,), math.nan)})
    assert len(seen) == 1 and torch.equal(seen[0], VALUES[~MISSING])


@pytest.mark.parametrize(
    "loss", [MF.batch_triplet_loss, lambda x, y: F.mse_loss(x.sum(1), y * 1.0)]
)
def test_a_scalar_counts_in_proportion_to_its_labelled_rows(loss):
    output, task = torch.randn(6, 3), task_of(loss)
    task.check_output(output, SAME)
    wanted = 4 * loss(output[~MISSING], SAME[~MISSING])
    torch.testing.assert_close(sums(task, {"y": output}, {"t": SAME})[0], wanted)


@pytest.mark.parametrize("loss", [BCE, "mse_loss", mtlfast.SmoothL1Loss(), F.huber_loss])
def test_a_group_equals_its_tasks_one_by_one(loss):
    output, target = torch.randn(6, 3), torch.rand(6, 3)
    target[MISSING, 1] = math.nan
    group = task_of(loss, ["a", "b", "c"])
    alone = task_of(loss)
    parts = [sums(alone, {"y": output[:, i]}, {"t": target[:, i]}) for i in range(3)]
    torch.testing.assert_close(sums(group, {"y": output}, {"t": target}), torch.cat(parts))
    assert counts(group, {"t": target}).tolist() == [6, 4, 6]


def test_a_group_of_ours_is_one_fused_call(monkeypatch):
    calls = []
    module = mtlfast.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0]))
    task = task_of(module, ["a", "b"])
    usual = mtlfast.BCEWithLogitsLoss.forward
    monkeypatch.setattr(
        mtlfast.BCEWithLogitsLoss, "forward", lambda *a, **k: calls.append(k) or usual(*a, **k)
    )
    output, target = torch.randn(6, 2), torch.rand(6, 2)
    total = sums(task, {"y": output}, {"t": target})
    assert calls == [{"return_tasks": True}] and task.module is module
    torch.testing.assert_close(
        total,
        F.binary_cross_entropy_with_logits(
            output, target, pos_weight=module.pos_weight, reduction="none"
        ).sum(0),
    )


def test_the_reduction_of_a_module_plays_no_part_and_stays_as_it_is():
    module = nn.MSELoss(reduction="sum")
    task = task_of(module)
    x, y = torch.randn(6), torch.randn(6)
    assert sums(task, {"y": x}, {"t": y}).item() == pytest.approx(float(module(x, y)))
    assert module.reduction == "sum" and task.module.reduction == "none"


def test_the_module_of_a_loss_can_be_trained_and_moved():
    task = task_of(Pairs())
    task.check_output(torch.randn(6, 2, 3), SAME)
    sums(task, {"y": torch.randn(6, 2, 3)}, {"t": SAME}).sum().backward()
    assert task.module.scale.grad is not None
    weighted = task_of(nn.CrossEntropyLoss(weight=RATES))
    weighted.module.double()
    total = sums(weighted, {"y": torch.randn(6, 4).double()}, {"t": CLASSES})
    assert total.dtype == torch.float64
    assert task_of(functools.partial(Pairs(), same=SAME)).module is not None
    assert task_of(BCE).module is None


def test_checking_a_batch_leaves_a_module_and_the_random_numbers_as_they_were():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x, y):
            return (self.norm(x) + torch.randn(6, 3)).sum(1) * y

    task = task_of(Noisy())
    before = torch.get_rng_state()
    task.check_output(torch.randn(6, 3, generator=torch.Generator()), SAME)
    assert torch.equal(torch.get_rng_state(), before)
    assert task.module.norm.num_batches_tracked == 0


def test_half_precision_losses_are_summed_in_float32():
    task = task_of(lambda x, y: (x - y).abs())
    output, target = torch.ones(1001, dtype=torch.bfloat16), torch.zeros(1001)
    assert sums(task, {"y": output}, {"t": target.bfloat16()}).tolist() == [1001.0]


def test_labels_keep_their_precision_where_outputs_are_half():
    output, target = torch.ones(2, dtype=torch.bfloat16), torch.tensor([1000.5, math.nan])
    for loss in ("mse_loss", F.l1_loss, nn.L1Loss()):
        wanted = 999.5 ** (2 if loss == "mse_loss" else 1)
        assert sums(task_of(loss), {"y": output}, {"t": target}).item() == wanted


@pytest.mark.parametrize("loss", ["mse_loss", "huber_loss", nn.L1Loss()])
def test_negative_integers_are_labels_of_a_regression(loss):
    task = task_of(loss)
    labels = torch.tensor([-1, 0, 2, 3])
    assert counts(task, {"t": labels}).tolist() == [4]
    assert sums(task, {"y": torch.zeros(4)}, {"t": labels}).item() > 4


def test_settings_can_be_written_as_json():
    losses = [loss for loss, _, _ in LOSSES.values()]
    for loss in losses:
        json.dumps(task_of(loss).settings(), allow_nan=False)
    shown = task_of(functools.partial(MF.smooth_l1_loss, beta=0.5, of=pairs)).settings()
    assert shown["loss"] == "smooth_l1_loss, beta=0.5, of=pairs"
