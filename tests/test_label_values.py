"""What labels hold is read alike by loss, count and metric, or refused with its row and value."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from messages import message_of
from torch import nn
from torch.utils.data import Subset, TensorDataset
from training import BCE, counts, sums

import mtlfast
import mtlfast.functional as MF
from mtlfast.train import MultiTaskModel, Samples, Task, Trainer

N = 8
CLASSES = torch.tensor([0, 2, -1, 1, -1, 2, 0, 1])


def task_of(loss, names="t", **options):
    return Task(names, output="y", target="t", loss=loss, **options)


def trainer_of(loss, width, names="t", metrics=()):
    torch.manual_seed(0)
    model = MultiTaskModel(nn.Identity(), {"y": nn.Linear(4, width)})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Trainer(model, task_of(loss, names, metrics=metrics), optimizer)


def inputs(rows=N):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))


class Items:
    """A data set whose labels are known only when they are read."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


# How a data set may hold the same rows.
FORMS = {
    "samples": lambda x, y: Samples(x, {"t": y}),
    "tensors": TensorDataset,
    "subset": lambda x, y: Subset(Samples(x, {"t": y}), range(len(x))),
    "items": lambda x, y: Items(Samples(x, {"t": y})),
}

# Classes

MARKS = [-100.0, -1.0, -0.5, math.nan, -math.inf]
OF_CLASSES = {
    "name": "cross_entropy",
    "function": F.cross_entropy,
    "module": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1),
    "nll": "nll_loss",
    "hinge": "multi_margin_loss",
}


@pytest.mark.parametrize("loss", OF_CLASSES)
@pytest.mark.parametrize("mark", MARKS)
def test_a_floating_class_is_the_class_and_a_mark_is_missing(loss, mark):
    floating = CLASSES.float().masked_fill(CLASSES < 0, mark)
    output, loss = torch.randn(N, 3), OF_CLASSES[loss]
    whole, read = task_of(loss), task_of(loss)
    read.check_output(output, floating)
    assert counts(read, {"t": floating}).tolist() == [6]
    wanted = sums(whole, {"y": output}, {"t": CLASSES})
    assert torch.equal(sums(read, {"y": output}, {"t": floating}), wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mark", MARKS)
def test_scores_see_the_labels_that_the_loss_sees(form, mark):
    scores = []
    for labels in (CLASSES, CLASSES.double().masked_fill(CLASSES < 0, mark)):
        run = trainer_of("cross_entropy", 3, metrics=["accuracy"])
        data = FORMS[form](inputs(), labels)
        run.fit(data, 1, 4)
        scores.append(run.evaluate(data))
    assert scores[0] == scores[1] and scores[0]["t"]["count"] == 6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.float16, torch.bool])
@pytest.mark.parametrize("ignored", [-100, -1, 0, 1, 156, 257])
def test_a_loss_leaves_out_its_own_mark_and_no_other_label(dtype, ignored):
    labels = torch.arange(N) % 2 if dtype == torch.bool else torch.tensor([0, 1, 2, 44, 100] * 2)
    labels = labels.to(dtype)
    if dtype == torch.uint8:
        labels[3] = 156  # -100 in one byte, as 257 is 1
    output = torch.randn(len(labels), 160)
    task = task_of(functools.partial(F.cross_entropy, ignore_index=ignored))
    kept = [label != ignored for label in labels.long().tolist()]
    assert counts(task, {"t": labels}).tolist() == [sum(kept)]
    wanted = F.cross_entropy(output[kept], labels[kept].long(), reduction="sum")
    torch.testing.assert_close(sums(task, {"y": output}, {"t": labels})[0], wanted)


def test_a_row_of_class_probabilities_with_a_negative_one_is_missing():
    soft = torch.softmax(torch.randn(N, 3), 1)
    soft[1, 0], soft[2] = math.nan, -1.0
    task = task_of("cross_entropy")
    assert counts(task, {"t": soft}).tolist() == [N - 2]


WRONG = {
    "not whole": ("cross_entropy", 3, 2.7, r"whole class indices below 3.*; got 2.7 in row 6"),
    "infinite": ("cross_entropy", 3, math.inf, "got inf in row 6"),
    "too large": ("cross_entropy", 3, 3.0, "class indices below 3, .*head 'y'; got 3 in row 6"),
    "huge": ("nll_loss", 3, 2**40, "got 1099511627776 in row 6"),
    "half": ("multi_margin_loss", 3, 0.5, "got 0.5 in row 6"),
    "no probability": (BCE, 1, 1.5, "labels from 0 to 1, .*; got 1.5 in row 6"),
    "of torch's": (nn.BCEWithLogitsLoss(), 1, 2.0, "labels from 0 to 1, .*; got 2 in row 6"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", WRONG)
def test_a_label_that_the_loss_cannot_take_is_refused_with_its_row(case, form):
    loss, width, value, message = WRONG[case]
    labels = torch.tensor([0.0, 1, math.nan, 1, 0, 0, 1, -1], dtype=torch.float64)
    labels[5] = value
    run = trainer_of(loss, width)
    before = [parameter.clone() for parameter in run.model.parameters()]
    message_of(lambda: run.fit(FORMS[form](inputs(), labels), 1, N), ValueError, message)
    assert all(map(torch.equal, before, run.model.parameters()))


def test_the_row_is_that_of_the_whole_data_set():
    labels = torch.tensor([0, 1, 2, 1, 0, 7, 1, 0])
    for form in ("samples", "items"):
        part = Subset(FORMS[form](inputs(), labels), [1, 2, 3, 5])
        run = trainer_of("cross_entropy", 3)
        wanted = "got 7 in row 6 of dataset"
        message_of(lambda run=run, part=part: run.fit(part, 1, 2), ValueError, wanted)
    good, bad = Samples(inputs(), {"t": labels.clamp(max=2)}), Samples(inputs(), {"t": labels})
    wanted = "got 7 in row 6 of validation"
    message_of(lambda: run.fit(good, 1, 2, validation=bad), ValueError, wanted)
    for form in ("samples", "items"):
        given = FORMS[form](inputs(), labels)
        wanted = "got 7 in row 6 of dataset"
        message_of(lambda given=given: run.evaluate(given), ValueError, wanted)


def test_a_map_of_classes_is_of_integers():
    task = task_of("cross_entropy")
    maps = torch.zeros(2, 4, 4)
    output = torch.randn(2, 3, 4, 4)
    task.check_output(output, maps.long())
    wanted = r"must have shape \(2, 4, 4\) of integers"
    message_of(lambda: task.check_output(output, maps), ValueError, wanted)


def test_class_sets_may_be_floats_too():
    sets = torch.tensor([[0.0, 2.0, -1.0], [1.0, -1.0, -1.0], [math.nan, 0.0, 0.0]])
    task = task_of("multilabel_margin_loss")
    output = torch.randn(3, 3)
    task.check_output(output, sets)
    wanted = F.multilabel_margin_loss(output[:2], sets[:2].long(), reduction="sum")
    torch.testing.assert_close(sums(task, {"y": output}, {"t": sets})[0], wanted)
    for value in (3.0, 0.5, -2.0):
        sets[1, 1] = value
        call = functools.partial(task.check_output, output, sets)
        message_of(call, ValueError, f"got {value:g} in row 2")


# Two classes

SIGNED = torch.tensor([1, -1, 1, -1, 1, -1, 1, 1])
BINARY = {
    "ours": BCE,
    "our function": MF.sigmoid_focal_loss,
    "our module": mtlfast.AsymmetricLoss(),
    "torch's": F.binary_cross_entropy_with_logits,
    "torch's module": nn.BCEWithLogitsLoss(),
    "of rows": "multilabel_soft_margin_loss",
}
NO_ZERO = "^Task.t.: labels are -1 and 1: write 0 for negative; -1 is missing.$"


@pytest.mark.parametrize("loss", BINARY)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32])
def test_labels_of_minus_1_and_1_are_refused(loss, dtype):
    data = Samples(inputs(), {"t": SIGNED.to(dtype)[:, None]})
    run = trainer_of(BINARY[loss], 1)
    message_of(lambda: run.fit(data, 1, 4), ValueError, NO_ZERO)
    message_of(lambda: run.evaluate(data), ValueError, NO_ZERO)


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_minus_1_and_1_are_refused_in_every_form_of_data(form):
    run = trainer_of(BCE, 1)
    data = FORMS[form](inputs(), SIGNED)
    message_of(lambda: run.fit(data, 1, 4), ValueError, NO_ZERO)
    message_of(lambda: trainer_of(BCE, 1).evaluate(data), ValueError, NO_ZERO)


def test_a_small_validation_part_of_minus_1_and_1_is_no_fault():
    run, good = trainer_of(BCE, 1), FORMS["items"](inputs(), column(0, 1, -1, 1))
    run.fit(good, 1, 4, validation=FORMS["items"](inputs(), SIGNED))
    run.fit(good, 1, 4, validation=Samples(inputs(), {"t": SIGNED[:, None]}))


@pytest.mark.parametrize(
    "loss, width",
    [("cross_entropy", 2), (lambda output, target: F.soft_margin_loss(output, target), 1)],
)
def test_wherever_minus_1_is_missing_it_is_no_negative(loss, width):
    run = trainer_of(loss, width)
    message_of(lambda: run.fit(Samples(inputs(), {"t": SIGNED}), 1, 4), ValueError, NO_ZERO)


def column(*values):
    return torch.tensor(values * (N // len(values)))


TAKEN = {
    "negatives": column(0, 1, -1, 1),
    "one negative": torch.tensor([1, -1, 1, -1, 1, -1, 1, 0]),
    "positives alone": column(1, 1),
    "marked by NaN": column(1.0, math.nan),
    "soft": column(0.3, -1.0, 0.7, 1.0),
    "bytes": column(1, 255).to(torch.uint8).clamp(max=1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", TAKEN)
def test_other_labels_are_taken(case, form):
    run = trainer_of(F.binary_cross_entropy_with_logits, 1)
    assert run.fit(FORMS[form](inputs(), TAKEN[case]), 1, 4)


def test_a_column_of_positives_and_missing_labels_beside_one_with_both_is_taken():
    labels = torch.stack((column(1, -1), column(0, 1)), 1)
    history = trainer_of(BCE, 2, ["a", "b"]).fit(Samples(inputs(), {"t": labels}), 1, 4)
    assert [row["train_labels"] for row in history] == [4, 8]
    twice = Samples(inputs(), {"t": torch.stack((column(1, -1),) * 2, 1)})
    run = trainer_of(BCE, 2, ["a", "b"])
    message_of(lambda: run.fit(twice, 1, 4), ValueError, "^Task.a, b.: labels are -1 and 1")


def test_a_column_without_labels_beside_one_of_positives_is_taken():
    labels = torch.stack((column(1, 1), column(-1, -1)), 1)
    scores = trainer_of(BCE, 2, ["a", "b"]).evaluate(Samples(inputs(), {"t": labels}))
    assert [scores[name]["count"] for name in "ab"] == [N, 0]


def test_a_small_part_without_negatives_is_taken_after_a_data_set_that_has_them():
    run = trainer_of(BCE, 1)
    part = Samples(inputs(), {"t": SIGNED})
    run.fit(Samples(inputs(), {"t": column(0, 1)}), 1, 4, validation=part)
    assert run.evaluate(part)["t"]["count"] == 5


def test_a_mark_that_is_named_is_a_mark():
    loss = nn.CrossEntropyLoss(ignore_index=-1)
    history = trainer_of(loss, 2).fit(Samples(inputs(), {"t": SIGNED}), 1, 4)
    assert history[0]["train_labels"] == 5


@pytest.mark.parametrize("loss", ["soft_margin_loss", "hinge_embedding_loss", "mse_loss"])
def test_losses_of_signs_keep_them(loss):
    run = trainer_of(loss, 1)
    history = run.fit(Samples(inputs(), {"t": SIGNED}), 1, 4)
    assert history[0]["train_labels"] == N


@pytest.mark.parametrize("loss", BINARY)
def test_negative_floats_are_missing_and_minus_zero_is_not(loss):
    labels = torch.tensor([-1.0, -0.0, 1.0, -100.0, 0.5, math.nan, 0.0, -0.25])[:, None]
    output = torch.randn(N, 1, requires_grad=True)
    task = task_of(BINARY[loss])
    missing = torch.tensor([True, False, False, True, False, True, False, True])
    assert counts(task, {"t": labels}).tolist() == [4]
    total = sums(task, {"y": output}, {"t": labels})
    total.sum().backward()
    assert output.grad[missing].count_nonzero() == 0
    kept = sums(task_of(BINARY[loss]), {"y": output.detach()[~missing]}, {"t": labels[~missing]})
    torch.testing.assert_close(total, kept)


def test_predicting_looks_at_no_label():
    labels = torch.full((N,), 99.0)
    for form in FORMS:
        predicted = trainer_of("cross_entropy", 3).predict(FORMS[form](inputs(), labels))
        assert predicted["y"].shape == (N, 3)
