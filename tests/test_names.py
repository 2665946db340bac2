"""Heads and tasks may be called what a table's columns are called."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from messages import message_of
from torch import nn
from training import same, state

from mtlfast.train import MultiTaskModel, Samples, Stage, Task, Trainer

NAMES = [
    "type",
    "keys",
    "values",
    "items",
    "pop",
    "clear",
    "update",
    "training",
    "forward",
    "train",
    "parameters",
    "petal.length",
    ".",
    "a/b",
    "50 %, or more",
    "Größe",
    'a "quoted" one',
    "0",
    "_modules",
    "__class__",
    "..",
]


def network(names=NAMES):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    return MultiTaskModel(backbone, {name: nn.Linear(4, 1) for name in names})


def samples(rows=24):
    torch.manual_seed(1)
    x = torch.randn(rows, 3)
    return Samples(x, {name: (x[:, i % 3] > 0).long() for i, name in enumerate(NAMES)})


def trained(output, epochs, model=None, resume=False, **options):
    model = network() if model is None else model
    bce = "binary_cross_entropy_with_logits"
    tasks = [Task(name, output=name, target=name, loss=bce, metrics="auroc") for name in NAMES]
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    stages = [Stage(NAMES[:10], 1), Stage(NAMES, 1)]
    run = Trainer(
        model, tasks, optimizer, output=output, best="a/b/auroc", stages=stages, **options
    )
    history = run.fit(samples(), epochs, 8, validation=samples(10), resume=resume)
    return run, history


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    return *trained(output, 2), output


def test_a_head_of_any_name_gives_its_output():
    model, x = network(), torch.randn(2, 3)
    assert list(model.heads) == NAMES and list(model(x)) == NAMES
    assert list(model(x, ["type", "petal.length"])) == ["type", "petal.length"]
    assert all(name in model.heads for name in NAMES) and "other" not in model.heads
    torch.testing.assert_close(model(x)["keys"], model.heads["keys"](model.backbone(x)))


def test_the_parameters_of_all_heads_are_saved_and_loaded():
    one, two = network(), network()
    for parameter in one.parameters():
        nn.init.normal_(parameter)
    names = set(one.state_dict())
    assert "heads.type.weight" in names and "heads.petal%2Elength.bias" in names
    assert len(names) == 2 * (1 + len(NAMES)) == len(list(one.parameters()))
    two.load_state_dict(one.state_dict())
    assert same(state(one), state(two))


def test_the_names_of_usual_heads_in_a_state_are_as_they_were():
    heads = {"kind": nn.Linear(4, 3), "50 %": nn.Linear(4, 1)}
    model = MultiTaskModel(nn.Linear(2, 4), heads)
    usual = nn.ModuleDict({"heads": nn.ModuleDict(heads)}).state_dict()
    assert {name for name in model.state_dict() if name.startswith("heads")} == set(usual)


@pytest.mark.parametrize("name, place", [("type", "heads.type"), ("a.b", "heads.a%2Eb")])
def test_a_head_of_any_name_is_frozen_and_replaced(name, place):
    model = network([name, "other"])
    model.freeze(place)
    model.train()
    assert not model.heads[name].training and model.heads["other"].training
    assert not any(p.requires_grad for p in model.heads[name].parameters())
    model.unfreeze(place)
    assert model.heads[name].training
    model.freeze(place)
    model.replace_head(name, nn.Linear(4, 7))
    model.train()
    assert model.heads[name].training and model(torch.randn(2, 3))[name].shape == (2, 7)
    groups = model.parameter_groups({"": 0.1, place: 0.2})
    assert [len(group["params"]) for group in groups] == [4, 2]


def test_a_run_writes_every_task_by_its_name(run):
    trainer, history, output = run
    assert [row["task"] for row in history if row["epoch"] == 2] == NAMES
    text = (output / "history.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["task"] for row in rows if row["epoch"] == "2"] == NAMES
    assert json.loads(json.dumps(history))[0]["task"] in NAMES
    assert (output / "weights.png").stat().st_size and (output / "losses.png").stat().st_size
    assert {path.name for path in output.iterdir()} >= {"history.csv", "checkpoints"}
    assert list(trainer.predict(samples(4))) == NAMES
    assert list(trainer.evaluate(samples(4))) == NAMES


@pytest.mark.usefixtures("no_pictures")
def test_a_run_goes_on_bit_for_bit_whatever_its_tasks_are_called(run, tmp_path):
    whole, _, _ = run
    stopped = network()

    class Stop(Exception):
        pass

    def stop(module, args):
        calls.append(1)
        if len(calls) > 10:
            raise Stop

    calls, handle = [], stopped.backbone.register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        trained(tmp_path, 2, stopped, checkpoint_every=1)
    handle.remove()
    again, _ = trained(tmp_path, 2, resume=True, checkpoint_every=1)
    assert same(state(whole.model), state(again.model))


@pytest.mark.parametrize("name", ["", "a%2Eb"])
def test_names_that_cannot_be_are_refused(name):
    message_of(lambda: network([name]), ValueError, "a head's name must not be empty or hold '%2E'")
