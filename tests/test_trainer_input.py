"""What a trainer refuses, in one line and before any work."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from messages import message_of
from torch import nn
from torch.utils.data import TensorDataset
from training import BCE, data, network, same, state, tasks, trainer

from mtlfast.train import (
    EarlyStopping,
    MultiTaskModel,
    Samples,
    Stage,
    Task,
    TaskDatasets,
    Trainer,
    watch,
)
from mtlfast.train.checkpoint import load, newest
from mtlfast.weighting import Uncertainty, ValidationLossTrend


def made(model=None, learned=None, **options):
    model = network() if model is None else model
    return lambda: Trainer(model, learned or tasks(), sgd(network()), **options)


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1)


def with_a_new_head():
    run_model = network()
    optimizer = sgd(run_model)
    run_model.replace_head("kind", nn.Linear(8, 3))
    return Trainer(run_model, tasks(), optimizer)


KINDS = [
    (made(nn.Linear(2, 2)), "model must be a MultiTaskModel; got Linear"),
    (made(learned=["kind"]), "tasks must be a Task or several; got str"),
    (lambda: Trainer(network(), tasks(), "sgd"), "optimizer must be a torch optimizer; got str"),
    (made(weighting="uncertainty"), "weighting must be a weighting of mtlfast.weighting; got str"),
    (made(weighting=Uncertainty), "weighting must be a weighting of mtlfast.weighting; got type"),
    (made(accumulate=1.5), "accumulate must be a whole number; got float"),
    (made(seed=None), "seed must be a whole number; got NoneType"),
    (made(clip="1"), "clip must be a number; got str"),
    (made(stages=["kind"]), "stages must be a list of Stages; got str"),
    (made(stopping=["a"]), "stopping must be a list of stop rules; got str"),
    (lambda: trainer().fit(data(), 1.5, 8), "epochs must be a whole number; got 1.5"),
    (lambda: trainer().fit(data(), 1, 8.0), "batch_size must be a whole number; got 8.0"),
]


@pytest.mark.parametrize("call, message", KINDS, ids=[message for _, message in KINDS])
def test_another_kind_of_thing_is_refused_in_one_line(call, message):
    message_of(call, TypeError, message)


def observing(**options):
    samples = data()
    return trainer(weighting=ValidationLossTrend(3, 1)).fit(samples, 1, 8, weight_data=samples)


BAD = [
    (made(clip=math.inf), "clip must be positive and finite"),
    (made(seed=2**31), r"below 2\*\*31; got 2147483648"),
    (made(), "optimizer must hold the model's parameter backbone.0.weight"),
    (with_a_new_head, "optimizer must hold the model's parameter heads.kind.weight"),
    (made(precision="bf16"), "precision must be 'no', as in this process's first Trainer"),
    (lambda: MultiTaskModel(nn.Identity(), {"": nn.Identity()}), "name must not be empty"),
    (observing, "weight_data must be other data than dataset; got the same rows"),
    (lambda: trainer().fit(None, 1, 8), "with a length and items by index; got NoneType"),
    (lambda: trainer().evaluate(data(), batch_size=0), "batch_size must be at least 1; got 0"),
    (
        lambda: trainer().fit(TaskDatasets({"kind": data(), "a": data(), "b": data()}), 1, 8),
        r"must name a group once; got \['kind', 'a', 'b'\]",
    ),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_one_line(call, message):
    trainer()  # the first Trainer of the process fixes the precision
    assert AcceleratorState().mixed_precision == "no"
    message_of(call, ValueError, message)


@pytest.mark.parametrize("rows, batch", [(9, 8), (17, 4)])
def test_a_model_that_takes_one_sample_may_end_an_epoch_with_one(rows, batch):
    trainer(network(norm=False)).fit(data(rows), 1, batch)


# What it takes that looks odd


def test_numbers_of_numpy_and_sets_can_be_saved(tmp_path):
    def run():
        return trainer(
            lr=np.float64(0.1),
            clip=np.float32(1),
            stages=[Stage({"a", "b", "kind"}, 1)],
            output=tmp_path,
        )

    run().fit(data(), 1, np.int64(8))
    assert load(newest(tmp_path / "checkpoints"))["step"] == 5
    run().fit(data(), 1, np.int64(8), resume=True)
    run().fit(data(), 1, 8, overwrite=True)


def test_samples_may_be_arrays():
    samples = Samples(np.ones((4, 5), np.float32), {"kind": [0, 1, 2, -1]})
    assert torch.equal(samples[0][0], torch.ones(5)) and samples[3][1]["kind"] == -1


def test_predicting_needs_no_labels():
    run, x = trainer(), data().inputs
    expected = run.predict(data())["kind"]
    for given in (x, TensorDataset(x), [{"x": row} for row in x]):
        assert torch.equal(run.predict(given)["kind"], expected)


def test_a_second_run_starts_its_rules_anew():
    run = trainer(stopping=[EarlyStopping(1, "kind/loss")], lr=1.0)
    validation = data(15, seed=2)
    assert run.fit(data(), 9, 8, validation=validation)
    assert run.fit(data(), 9, 8, validation=validation)


# What leaves no trace


class Noisy(Samples):
    """Draws random numbers for every batch, as augmentations do."""

    def __getitem__(self, index):
        torch.rand(3), np.random.rand()
        return super().__getitem__(index)


def test_random_numbers_drawn_for_validation_change_nothing():
    models = [network(dropout=0.5) for _ in range(2)]
    plain = data(15, seed=2)
    for model, kind in zip(models, (Samples, Noisy), strict=True):
        trainer(model).fit(data(), 2, 8, validation=kind(plain.inputs, plain.targets))
    assert same(state(models[0]), state(models[1]))


def test_time_spent_on_scoring_is_not_training_time(tmp_path, monkeypatch):
    class Slow(Samples):
        """Takes 100 seconds for each batch, by a clock that stands still else."""

        def __getitem__(self, index):
            seconds.append(100)
            return super().__getitem__(index)

    seconds, plain = [], data(15, seed=2)
    monkeypatch.setattr(watch.time, "perf_counter", lambda: sum(seconds))
    run = trainer(output=tmp_path)
    run.fit(data(), 2, 8, validation=Slow(plain.inputs, plain.targets))
    assert seconds and run.run.seconds == 0


def test_a_head_of_another_width_than_the_labels_is_refused():
    task = Task("a", output="flags", target="flags", loss=BCE)
    samples = data(8)
    samples.targets["flags"] = samples.targets["flags"][:, :1]
    message_of(lambda: trainer(learned=task).fit(samples, 1, 4), ValueError, "head 'flags' must")


def test_a_task_without_labels_is_scored_none_and_not_trained_on():
    model = MultiTaskModel(nn.Identity(), {"y": nn.Linear(4, 1)})
    x, task = torch.randn(8, 4), Task("t", output="y", target="t", loss=BCE)
    run = Trainer(model, task, sgd(model))
    empty = Samples(x, {"t": torch.full((8, 1), math.nan)})
    assert run.evaluate(empty) == {"t": {"loss": None, "count": 0, "metrics": {}}}
    for role in ("dataset", "weight_data"):
        full = Samples(x, {"t": torch.arange(8.0)[:, None] % 2})
        given = {"dataset": full, role: empty}
        wanted = f"{role} has no labelled sample of task 't'"
        message_of(lambda given=given: run.fit(**given, epochs=1, batch_size=4), ValueError, wanted)
    run.fit(full, 1, 4, validation=empty)
