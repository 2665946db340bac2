"""Properties of how a run ends: stop rules, the best epoch, trouble, and what is logged."""

from __future__ import annotations

import math

import pytest
import torch
from messages import message_of
from torch import nn
from training import data, network, same, state, tasks, trainer

import mtlfast
from mtlfast.train import (
    Best,
    EarlyStopping,
    MultiTaskModel,
    Samples,
    Stage,
    Task,
    TaskStopping,
    checkpoint,
)
from mtlfast.train.report.summary import weights_sha256
from mtlfast.weighting import Uncertainty

VALIDATION = {"validation": data(15, seed=2)}
pytestmark = pytest.mark.usefixtures("no_pictures")

# Stop rules


def stopping_run(output=None):
    """The group of flags stops after three epochs, whatever it learns."""
    return trainer(
        optimizer=torch.optim.Adam,
        lr=0.01,
        stopping=[TaskStopping(["a", "b"], window=3, threshold=1e-9)],
        output=output,
        checkpoint_every=5,
        keep=99,
    )


def test_a_task_that_a_rule_stops_does_not_move_by_one_bit(tmp_path):
    run = stopping_run(tmp_path)
    history = run.fit(data(), 12, 8, **VALIDATION)
    (epoch,) = set(run.run.stopped.values())
    assert list(run.run.stopped) == ["a"] and 3 <= epoch < 12
    after = checkpoint.load(checkpoint.step_path(tmp_path / "checkpoints", 5 * epoch))["model"]
    for name, tensor in run.model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, after[name]) == name.startswith("heads.flags")
    for row in history:
        going = row["epoch"] <= epoch or row["task"] == "kind"
        assert row["active"] == going and (row["train_loss"] is not None) == going
        assert row["validation_loss"] is not None


def test_a_run_in_which_all_tasks_have_stopped_ends():
    rule = TaskStopping(["kind", "a", "b"], window=3, threshold=1e-9)
    run = trainer(stopping=[rule], lr=0.01)
    history = run.fit(data(), 60, 8, **VALIDATION)
    assert set(run.run.stopped) == {"kind", "a"}
    assert history[-1]["epoch"] == max(run.run.stopped.values()) < 60


def test_a_stage_without_a_task_left_is_followed_by_the_next():
    stages = [Stage(["a", "b"], 20), Stage(["kind"], 2)]
    rule = TaskStopping(["a", "b"], window=3, threshold=1e-9)
    run = trainer(stopping=[rule], lr=0.01, stages=stages)
    history = run.fit(data(), 22, 8, **VALIDATION)
    assert run.run.stopped["a"] < 20 and history[-1]["epoch"] == 22
    (last,) = (row for row in history[-3:] if row["task"] == "kind")
    assert last["train_labels"] == int((data().targets["kind"] >= 0).sum())


def patient(output, patience=2):
    run = trainer(
        stopping=[EarlyStopping(patience, "kind/loss")], best="kind/loss", output=output, lr=1.0
    )
    return run, run.fit(data(12), 40, 4, **VALIDATION)


def test_a_run_ends_when_its_patience_does_and_has_the_best_weights(tmp_path):
    run, history = patient(tmp_path)
    losses = [row["validation_loss"] for row in history if row["task"] == "kind"]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 3 < 40
    assert run.run.best.epoch == best + 1 and run.run.best.value == losses[best]
    assert run.evaluate(VALIDATION["validation"])["kind"]["loss"] == pytest.approx(losses[best])


def test_a_run_that_has_ended_is_not_continued_by_resuming(tmp_path):
    run, history = patient(tmp_path)
    digest = weights_sha256(run.model)
    again = trainer(
        stopping=[EarlyStopping(2, "kind/loss")], best="kind/loss", output=tmp_path, lr=1.0
    )
    assert again.fit(data(12), 40, 4, **VALIDATION, resume=True) == history
    assert weights_sha256(again.model) == digest


BAD = [
    (lambda: trainer(best="loss"), "best needs the trainer's output directory; got None"),
    (lambda: trainer(tensorboard=True), "tensorboard needs the trainer's output directory"),
    (lambda: trainer(best=Best("auc"), output="x"), "metric must be one of .*; got 'auc'"),
    (lambda: trainer(stopping=[EarlyStopping(1, "c/loss")]), "got 'c/loss'"),
    (lambda: trainer(stopping=[TaskStopping(["a"], threshold=1.0)]), "must name all of"),
    (lambda: trainer(stopping=[EarlyStopping(1)]).fit(data(), 1, 8), "stopping needs validation"),
    (lambda: trainer(checkpoint_every=0), "checkpoint_every must be at least 1; got 0"),
    (lambda: trainer(keep=0), "keep must be at least 1; got 0"),
    (lambda: trainer(weighting=Uncertainty(3)), "hold the weighting's parameter log_variance"),
    (lambda: trainer(weighting=Uncertainty(3), accumulate=2), "1 with Uncertainty, which is not"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_one_line(call, message):
    message_of(call, ValueError, message)


# Trouble


def test_a_loss_that_becomes_infinite_is_named_with_the_newest_checkpoint(tmp_path):
    samples = data(40)
    samples.inputs[17] = math.nan
    samples.targets["kind"][17], samples.targets["flags"][17] = -1, torch.tensor([-1, 1])
    run = trainer(output=tmp_path, checkpoint_every=1, model=network(norm=False))
    with pytest.raises(FloatingPointError, match="loss of task 'b' became nan by step") as error:
        run.fit(samples, 9, 8)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    assert newest is None or f"{newest} is from before it." in str(error.value)
    assert newest is None or all(
        tensor.isfinite().all() for tensor in checkpoint.load(newest)["model"].values()
    )


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """Gradients may be infinite where the loss is not."""
    model = MultiTaskModel(nn.Identity(), {"y": nn.Linear(2, 1)})
    run = trainer(model, Task("y", output="y", target="y", loss="mse_loss"), output=tmp_path)
    original = run.optimizer.step

    def step(*arguments):
        original(*arguments)
        with torch.no_grad():
            model.heads["y"].weight.fill_(math.inf)

    run.optimizer.step = step
    with pytest.raises(FloatingPointError, match=r"model.heads.y.weight is no longer finite at"):
        run.fit(Samples(torch.randn(4, 2), {"y": torch.randn(4)}), 1, 4)
    assert not list(tmp_path.glob("checkpoints/*"))


# What belongs to a run besides the model


class Verification(nn.Module):
    """A contrastive loss with the margin that follows the data."""

    def __init__(self):
        super().__init__()
        self.margin = mtlfast.MarginUpdater(window=16, interval=8)

    def forward(self, pairs, same):
        first, second = pairs.unbind(1)
        if self.training:
            self.margin.observe((first - second).norm(dim=1).detach(), same)
        margin = self.margin(len(same))
        return mtlfast.functional.contrastive_loss(first, second, same, margin, reduction="none")


def test_a_margin_that_follows_the_data_learns_in_training_only_and_survives_a_restart(tmp_path):
    def run(output):
        torch.manual_seed(0)
        loss = Verification()
        model = MultiTaskModel(nn.Linear(4, 3), {"z": nn.Identity()})
        learned = Task("v", output="z", target="same", loss=loss)
        return loss, trainer(model, learned, output=output)

    torch.manual_seed(1)
    pairs = Samples(torch.randn(32, 2, 4), {"same": torch.randint(0, 2, (32,))})
    loss, whole = run(tmp_path / "whole")
    whole.fit(pairs, 3, 8, validation=pairs)
    assert loss.margin.observed == 96 and loss.margin.margin != 1
    _, part = run(tmp_path / "part")
    part.fit(pairs, 2, 8, validation=pairs)
    again, rest = run(tmp_path / "part")
    rest.fit(pairs, 3, 8, validation=pairs, resume=True)
    assert same(state(loss), state(again)) and same(state(whole.model), state(rest.model))


def test_tensorboard_gets_losses_weights_and_scores(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(learned=tasks(), output=tmp_path, tensorboard=True)
    history = run.fit(data(), 3, 8, **VALIDATION)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = events.Scalars("train_loss/kind")
    expected = [row["train_loss"] for row in history if row["task"] == "kind"]
    assert [event.value for event in logged] == pytest.approx(expected)
    assert [event.step for event in logged] == [5, 10, 15]
    assert {"weight/a", "validation_loss/b", "validation_accuracy/kind"} <= set(
        events.Tags()["scalars"]
    )
