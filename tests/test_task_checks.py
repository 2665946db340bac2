"""A task that cannot work is refused before training, in one line."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from training import BCE

import mtlfast
import mtlfast.functional as MF
from mtlfast.train import Task
from mtlfast.train.tasks import check_tasks

SAME = torch.tensor([1, 0, -1, 1, -1, 0])
CLASSES = torch.tensor([0, 3, -1, 2, -1, 1])
FLAGS = torch.tensor([0, 1, -1, 1, -1, 0], dtype=torch.int8)
VALUES = torch.tensor([0.5, -1.0, math.nan, 2.0, math.nan, 0.0])
PAIRS = torch.rand(6, 2)


def task_of(loss, name="t", **options):
    return Task(name, **{"output": "y", "target": "t", "loss": loss} | options)


def fits(loss, output, target, name="t"):
    task = task_of(loss, name)
    return lambda: task.check_output(torch.zeros(output), torch.as_tensor(target))


X = (6, 3)
BAD = [
    (lambda: task_of("hinge"), "got 'hinge'"),
    (lambda: task_of("relu"), "got 'relu'"),
    (lambda: task_of("weighted_sum"), "got 'weighted_sum'"),
    (lambda: task_of(BCE, normalizer="batch"), "normalizer must be"),
    (lambda: task_of(BCE, normalizer=0.0), "normalizer must be"),
    (lambda: task_of(BCE, normalizer=math.inf), "normalizer must be"),
    (lambda: task_of(BCE, weight=-1.0), "weight must be finite"),
    (lambda: task_of(BCE, weight=math.nan), "weight must be finite"),
    (lambda: task_of(BCE, ["x", "x"]), "different names"),
    (lambda: task_of("cross_entropy", ["x", "y"]), "is one task, not 2"),
    (lambda: task_of("batch_triplet_loss", ["x", "y"]), "one task, not 2"),
    (lambda: task_of("contrastive_loss", ["x", "y"]), "one task, not 2"),
    (
        lambda: task_of(mtlfast.MSELoss(task_weight=torch.ones(1))),
        "must not hold a task_weight; use the Task's weight",
    ),
    (lambda: task_of(functools.partial(MF.mse_loss, mask=SAME > 0)), "must not hold a mask"),
    (lambda: check_tasks([], ["y"]), "at least one; got none"),
    (lambda: check_tasks([task_of(BCE)] * 2, ["y"]), "got t twice"),
    (lambda: check_tasks([task_of(BCE)], ["kind", "flags"]), r"has \['kind', 'flags'\]"),
    (lambda: check_tasks([task_of(BCE, weight=0.0)], ["y"]), "positive for one task at least"),
    (fits(BCE, X, torch.ones(6, 2), ["a", "b"]), r"head 'y' must have 2 columns for Task\(a, b\)"),
    (fits(BCE, (6, 2), torch.ones(6, 3), ["a", "b"]), "target 't' must have 2 columns for Task"),
    (fits(BCE, X, FLAGS), r"head 'y' must have 1 column for Task\(t\), as target 't' has; got 3"),
    (fits("huber_loss", (6, 1), torch.ones(6, 2)), "head 'y' must have 2 columns"),
    (fits("mse_loss", (5, 1), VALUES), "head 'y' must give 6 rows"),
    (fits("cross_entropy", (6, 3), [0, 1, 2, 7, 1, -1]), "indices below 3, .* head 'y'; got 7"),
    (fits("cross_entropy", (6, 3), torch.zeros(6, 1).long()), r"must have shape \(6,\)"),
    (fits("cross_entropy", (6, 3), torch.zeros(6, 4)), r"must have shape \(6,\)"),
    (fits("cross_entropy", (6,), CLASSES), "must have shape"),
    (fits(BCE, (6,), [0, 1, 2, 1, -1, 0]), "from 0 to 1, negative where missing; got 2"),
    (fits(BCE, (6,), [0.0, 1, -1, 1.5, -1, 0]), "NaN or negative where missing; got 1.5 in row 4"),
    (fits("contrastive_loss", (6, 3, 2), SAME), r"^Task\(t\), on .* \(6, 3, 2\) and .*: same must"),
    (
        fits(lambda x, y: x @ y, (6, 3), VALUES),
        r"Task\(t\), on an output \(6, 3\) and labels \(6,\): ",
    ),
    (fits(lambda x, y: (x, y), (6,), VALUES), "a scalar or TaskLosses; got tuple"),
    (fits(lambda x, y: x, (6, 3), VALUES), r"a value for each label, \(6,\).*got \(6, 3\)"),
    (fits(lambda x, y: x.sum(1), (6, 2), PAIRS, ["a", "b"]), "one task, not 2"),
    (fits(lambda x, y: x.sum(), (6, 2), PAIRS, ["a", "b"]), "one task, not 2"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("labels", [CLASSES, CLASSES.double(), CLASSES.to(torch.int8)])
def test_class_labels_are_checked_by_themselves(labels):
    task = task_of("cross_entropy")
    task.check_labels(labels, 4)
    task.check_labels(labels[:0], 4)
    with pytest.raises(ValueError, match="indices below 3, the width of head 'y'; got 3"):
        task.check_labels(labels.clamp(min=0), 3)
