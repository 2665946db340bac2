"""A loss in training is one of four adapters, chosen once, in four hops from a batch."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training import counts, data, sums, tasks, trainer

import mtlfast
import mtlfast.functional as MF
from mtlfast.train import MultiTaskModel, Samples, Task
from mtlfast.train.adapters import Elementwise, Fused, Rowwise, Scalar
from mtlfast.train.losses import Loss

PACKAGE = str(Path(mtlfast.__file__).parent)
FORMS = {"pointwise": Fused, "rows": Rowwise, "inbatch": Scalar}
KNOWN = {
    "torch's function": (F.cross_entropy, Elementwise),
    "torch's module": (nn.HuberLoss(), Elementwise),
    "torch's of rows": (nn.MultiLabelMarginLoss(), Rowwise),
    "our module": (mtlfast.ContrastiveLoss(), Rowwise),
    "a partial": (functools.partial(MF.smooth_l1_loss, beta=2.0), Fused),
}


def wrapped(function):
    """Returns a function around another, as torch.compile and decorators make them."""

    @functools.wraps(function)
    def call(*args, **options):
        return function(*args, **options)

    return call


class PerRow(nn.MSELoss):
    """A child of torch's that returns something else."""

    def forward(self, output, target):
        return super().forward(output, target).sum(1)


def cross_entropy(output, target):
    """A stranger's, which shares but a name with torch's."""
    return (output - target).abs()


def task_of(loss):
    return Task("t", output="y", target="t", loss=loss)


@pytest.mark.parametrize("name", MF.LOSSES)
def test_what_is_known_of_our_losses_is_their_record(name):
    task, record = task_of(name), MF.LOSSES[name]
    assert type(task.adapter) is FORMS[record.family]
    assert (task.kind == "binary") == record.classification
    counted = record.family == "pointwise" and not record.classification
    assert counts(task, {"t": torch.tensor([-1, 0, 1])}).tolist() == [3 if counted else 2]


@pytest.mark.parametrize(
    "name", ["binary_cross_entropy_with_logits", "mse_loss", "contrastive_loss"]
)
def test_a_wrapped_loss_is_known_by_what_it_wraps(name):
    usual, other = task_of(getattr(MF, name)), task_of(wrapped(getattr(MF, name)))
    assert type(other.adapter) is type(usual.adapter) and other.kind == usual.kind
    labels = {"t": torch.tensor([-1.0, 0.0, 1.0])}
    assert torch.equal(counts(other, labels), counts(usual, labels))


def test_a_wrapped_loss_of_torchs_takes_class_indices():
    usual, other = (task_of(loss) for loss in (F.cross_entropy, wrapped(F.cross_entropy)))
    assert other.kind == "multiclass" and other.loss.indexed
    given = {"y": torch.randn(4, 3)}, {"t": torch.tensor([0, 2, -1, 1])}
    assert torch.equal(sums(other, *given), sums(usual, *given))


@pytest.mark.parametrize("case", KNOWN)
def test_an_adapter_is_chosen_without_a_call_where_the_loss_is_known(case):
    loss, wanted = KNOWN[case]
    assert type(task_of(loss).adapter) is wanted


def test_the_name_of_a_callable_says_nothing():
    task = task_of(cross_entropy)
    assert task.kind == "value" and not task.adapter.known


def test_a_child_of_a_module_of_torchs_is_known_by_what_it_returns():
    task, x = task_of(PerRow()), torch.rand(3, 2)
    assert not task.adapter.known
    task.check_output(x, x)
    assert type(task.adapter) is Rowwise and task.loss.signed


def test_a_batch_that_nobody_tried_is_refused_in_training():
    task = task_of(cross_entropy)
    with pytest.raises(ValueError, match="must be tried on a batch first, by check_output"):
        task.adapter(torch.rand(3), torch.rand(3), torch.ones(3, dtype=torch.bool))


def test_training_keeps_the_adapter_that_the_check_has_chosen():
    task = task_of(lambda output, target: (output - target).square())
    run = trainer(MultiTaskModel(nn.Identity(), {"y": nn.Linear(2, 1)}), task)
    samples = Samples(torch.rand(9, 2), {"t": torch.rand(9, 1)})
    run.fit(samples, 1, 4)
    chosen = task.adapter
    run.fit(samples, 2, 4)
    run.evaluate(samples)
    assert task.adapter is chosen and type(chosen) is Elementwise


def test_from_a_batch_to_a_loss_there_are_four_hops():
    hops = []

    def loss(output, target):
        codes = [frame.frame.f_code for frame in reversed(inspect.stack()[1:])]
        ours = [c.co_qualname for c in codes if c.co_filename.startswith(PACKAGE)]
        hops.append([name for name in ours if "<" not in name])  # a list is no hop
        return (output - target).square()

    run = trainer(MultiTaskModel(nn.Identity(), {"y": nn.Linear(2, 1)}), task_of(loss))
    run.fit(Samples(torch.rand(4, 2), {"t": torch.rand(4, 1)}), 1, 4)
    *_, before, forward, sums, adapter = hops[-1]
    assert before == "Trainer._step"
    assert [forward, sums, adapter] == ["Joint.forward", "Joint.sums", "Elementwise.__call__"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_labels_are_counted_once_for_each_micro_batch(accumulate, monkeypatch):
    seen, usual = [], Loss.labelled
    learned = [*tasks(), Task("c", output="kind", target="kind", loss="cross_entropy")]
    run = trainer(learned=learned, accumulate=accumulate)
    monkeypatch.setattr(Loss, "labelled", lambda loss, t: seen.append(loss) or usual(loss, t))
    step = run._step

    def counted(batches):
        before = len(seen)
        step(batches)
        assert len(seen) - before == len(learned) * len(batches)

    run._step = counted
    run.fit(data(), 1, 8)
    assert run.run.step == 5
