"""Every public argument of the trainer, given a thing of another kind, says so in one line."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from messages import message_of
from torch import nn
from training import BCE, data, network, tasks, trainer

from mtlfast.train import MultiTaskModel, Samples, Task, TaskDatasets, Trainer


def task(name="t", **options):
    return lambda: Task(name, **{"output": "y", "target": "t", "loss": BCE} | options)


def made(**options):
    model = network()
    given = {
        "model": model,
        "tasks": tasks(),
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
    }
    return lambda: Trainer(**given | options)


def fit(dataset=None, epochs=1, batch_size=8, **options):
    given = data() if dataset is None else dataset
    return lambda: trainer().fit(given, epochs, batch_size, **options)


HEADS = {"y": nn.Linear(2, 1)}
# call: what must be said of which argument
TYPES = [
    (task(3), "name_or_names must be a name or several; got int"),
    (task(["a", 3]), "name_or_names must be a name or several; got int"),
    (task(None), "name_or_names must be a name or several; got NoneType"),
    (task(output=3), "output must be the name of a head; got int"),
    (task(output=None), "output must be the name of a head; got NoneType"),
    (task(target=["t"]), "target must be the name of a target; got list"),
    (task(loss=3), "loss must be a callable or the name of one; got int"),
    (task(loss=None), "loss must be a callable or the name of one; got NoneType"),
    (task(loss=nn.MSELoss), "loss must be a callable or the name of one; got the class MSELoss"),
    (task(weight="x"), "weight must be a number; got str"),
    (task(weight=None), "weight must be a number; got NoneType"),
    (task(weight=[1.0]), "weight must be a number; got list"),
    (task(metrics=3), "metrics must be a metric or several; got int"),
    (task(metrics=[3]), "metrics must be names, callables or Metrics; got 3"),
    (task(metrics=[nn.MSELoss]), "metrics must be names.*; got the class MSELoss"),
    (task(auxiliary="yes"), "auxiliary must be True or False; got str"),
    (lambda: MultiTaskModel(3, HEADS), "backbone must be a module; got int"),
    (lambda: MultiTaskModel(nn.Linear, HEADS), "backbone must be a module; got type"),
    (
        lambda: MultiTaskModel(nn.Identity(), [nn.Identity()]),
        "heads must be a mapping of names .* list",
    ),
    (lambda: MultiTaskModel(nn.Identity(), None), "heads must be a mapping of names .* NoneType"),
    (lambda: MultiTaskModel(nn.Identity(), {"a": 3}), "head 'a' must be a module or .*; got int"),
    (lambda: MultiTaskModel(nn.Identity(), {"a": nn.Linear}), "head 'a' must be a module .* type"),
    (lambda: MultiTaskModel(nn.Identity(), {"a": (1, nn.Identity())}), "head 'a' .*; got int"),
    (lambda: MultiTaskModel(nn.Identity(), {"a": ("x",)}), "head 'a' must be a module .* tuple"),
    (lambda: MultiTaskModel(nn.Identity(), {3: nn.Identity()}), "a head's name must be a string"),
    (made(model=nn.Linear(5, 3)), "model must be a MultiTaskModel; got Linear"),
    (made(tasks=None), "tasks must be a Task or several; got NoneType"),
    (made(tasks="kind"), "tasks must be a Task or several; got str"),
    (made(optimizer=None), "optimizer must be a torch optimizer; got NoneType"),
    (made(optimizer=torch.optim.SGD), "optimizer must be a torch optimizer; got type"),
    (made(weighting=[1.0]), "weighting must be a weighting of mtlfast.weighting; got list"),
    (made(scheduler="cosine"), "scheduler must be a torch learning-rate scheduler; got str"),
    (made(stages=[3]), "stages must be a list of Stages; got int"),
    (made(stopping=3), "stopping must be a list of stop rules; got int"),
    (made(best=3), "best must be a name or a Best; got int"),
    (made(accumulate="2"), "accumulate must be a whole number; got str"),
    (made(accumulate=None), "accumulate must be a whole number; got NoneType"),
    (made(clip="1"), "clip must be a number; got str"),
    (made(output=3), "output must be a directory; got int"),
    (made(checkpoint_every=2.5), "checkpoint_every must be a whole number; got float"),
    (made(keep=None), "keep must be a whole number; got NoneType"),
    (made(tensorboard="runs"), "tensorboard must be True or False; got str"),
    (made(seed="0"), "seed must be a whole number; got str"),
    (fit(epochs=None), "epochs must be a whole number; got None"),
    (fit(epochs="1"), "epochs must be a whole number; got '1'"),
    (fit(batch_size=None), "batch_size must be a whole number; got None"),
    (fit(weight_batch_size=2.5), "weight_batch_size must be a whole number; got 2.5"),
    (fit(resume="yes"), "resume must be True or False; got str"),
    (fit(overwrite=1), "overwrite must be True or False; got int"),
    (fit(pictures="no"), "pictures must be True or False; got str"),
    (fit(epochs=True), "epochs must be a whole number; got True"),
    (fit(weight_batch_size=True), "weight_batch_size must be a whole number; got True"),
    (task(weight=True), "weight must be a number; got bool"),
    (made(accumulate=True), "accumulate must be a whole number; got bool"),
    (made(clip=True), "clip must be a number; got bool"),
    (made(seed=False), "seed must be a whole number; got bool"),
    (lambda: trainer().evaluate(data(), True), "batch_size must be a whole number; got bool"),
    (lambda: trainer().evaluate(data(), 2.5), "batch_size must be a whole number; got float"),
    (lambda: trainer().evaluate(data(), None), "batch_size must be a whole number; got NoneType"),
    (lambda: trainer().predict(data(), "8"), "batch_size must be a whole number; got str"),
    (lambda: Samples(None, {}), "inputs must be a tensor or an array of numbers; got NoneType"),
    (lambda: Samples(["a"], {}), "inputs must be a tensor or an array of numbers; got list"),
    (lambda: Samples(torch.ones(2), torch.ones(2)), "targets must be a mapping .*; got Tensor"),
    (lambda: Samples(torch.ones(2), {"t": ["a", "b"]}), "target 't' must be a tensor .* list"),
    (lambda: TaskDatasets([data()]), "datasets must be a mapping of tasks to data sets; got list"),
]
VALUES = [
    (task([]), r"at least one; got \(\)"),
    (task(""), r"at least one; got \('',\)"),
    (task(loss="nothing"), "the name of a loss in .*; got 'nothing'"),
    (task(normalizer=None), "normalizer must be 'labelled', 'rows' or a positive number; got None"),
    (task(normalizer=[2]), r"normalizer must be .*; got \[2\]"),
    (task(normalizer=True), "normalizer must be .*; got True"),
    (task(loss=partial(F.cross_entropy, ignore_index=True)), "ignore_index .*; got bool"),
    (task(metrics="nothing"), "torchmetrics has no metric 'nothing'"),
    (lambda: MultiTaskModel(nn.Identity(), {}), "at least one head; got none"),
    (made(precision=16), "precision must be 'no', 'bf16' or 'fp16'; got 16"),
    (made(precision=None), "precision must be 'no', 'bf16' or 'fp16'; got None"),
    (made(tasks=[]), "tasks must have different names, at least one; got none"),
    (fit(3), "dataset must be a data set with a length and items by index; got int"),
    (fit({"x": torch.ones(3)}), "dataset must be a data set .*; got dict"),
    (fit(Samples), "dataset must be a data set .*; got type"),
    (fit(validation=3), "validation must be a data set .*; got int"),
    (fit(validation=[]), "validation must hold at least one sample; got none"),
    (fit(weight_data="x.csv"), "weight_data must "),
    (lambda: trainer().evaluate(None), "must be a data set .*; got NoneType"),
    (lambda: trainer().evaluate(3), "must be a data set .*; got int"),
    (lambda: trainer().predict(None), "dataset must be a data set .*; got NoneType"),
    (lambda: trainer().predict(TaskDatasets({"a": data()})), "data set .*; got TaskDatasets"),
    (lambda: trainer().predict(data(), 0), "batch_size must be at least 1; got 0"),
    (lambda: Samples(torch.tensor(3.0), {}), "inputs must have a row for each sample; got one"),
    (lambda: Samples(torch.ones(2), {"t": 3}), "target 't' must have a row for each sample"),
]


@pytest.mark.parametrize("call, message", TYPES, ids=[message for _, message in TYPES])
def test_a_thing_of_another_kind_is_refused_in_one_line(call, message):
    message_of(call, TypeError, message)


@pytest.mark.parametrize("call, message", VALUES, ids=[message for _, message in VALUES])
def test_a_value_that_cannot_be_is_refused_in_one_line(call, message):
    message_of(call, ValueError, message)


def test_one_metric_needs_no_list():
    def error(prediction, target):
        return (prediction - target).abs().mean()

    assert list(task(loss="mse_loss", metrics=error)().metrics) == ["error"]
