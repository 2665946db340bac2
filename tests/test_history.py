"""history.csv: a row for each epoch and task, and for each renewal of the weights."""

from __future__ import annotations

import csv
import itertools

import pandas
import pytest
import torch
from training import data, full_run, network, tasks, trainer

from mtlfast.train import run as renewing
from mtlfast.train.report import history as record
from mtlfast.train.report import pictures
from mtlfast.train.trainer import Trainer
from mtlfast.weighting import DynamicWeightAverage, Fixed, RandomWeights, Uncertainty

pytestmark = pytest.mark.usefixtures("no_pictures")

OPTIONS = {"validation": data(9, seed=2), "weight_data": data(20, seed=1)}


def weighted(weighting, output):
    model = network()
    optimizer = torch.optim.SGD([*model.parameters(), *weighting.parameters()], lr=0.1)
    return Trainer(model, tasks(), optimizer, weighting=weighting, output=output)


def seen_weights(run, monkeypatch):
    """Returns a list that fills with each step and the weights after it."""
    seen, usual = [(0, run.joint.weights())], Trainer._step

    def step(self, batches):
        usual(self, batches)
        seen.append((self.run.step + 1, self.joint.weights()))

    monkeypatch.setattr(Trainer, "_step", step)
    return seen


@pytest.mark.parametrize(
    "make",
    [
        lambda output: full_run(output),
        lambda output: weighted(DynamicWeightAverage(3, 3), output),
        lambda output: weighted(RandomWeights(3, seed=1), output),
        lambda output: weighted(Uncertainty(3), output),
    ],
    ids=["ValidationLossTrend", "DynamicWeightAverage", "RandomWeights", "Uncertainty"],
)
def test_every_change_of_the_weights_is_a_row_at_its_step(make, monkeypatch, tmp_path):
    run = make(tmp_path)
    seen = seen_weights(run, monkeypatch)
    run.fit(data(), 5, 8, **OPTIONS)
    table = pandas.read_csv(tmp_path / "history.csv")
    assert not table.duplicated(["step", "task"]).any()
    weights = table.pivot(index="step", columns="task", values="weight")[run.names]
    assert weights.notna().all(axis=None)
    changed = [seen[0]] + [new for old, new in itertools.pairwise(seen) if old[1] != new[1]]
    assert len(changed) > 4
    ends = {5 * epoch for epoch in range(1, 6)}
    assert sorted(weights.index) == sorted({step for step, _ in changed} | ends)
    for step, expected in seen:
        if step in weights.index:
            assert weights.loc[step].tolist() == expected
    curves = table[table.event == "epoch"]
    assert [(e, t) for e, t in zip(curves.epoch, curves.task, strict=True)] == [
        (epoch, name) for epoch in range(1, 6) for name in run.names
    ]
    assert table[table.event == "renewal"].train_loss.isna().all()
    assert ((table.step - 1) // 5 + 1).clip(lower=1).eq(table.epoch).all()


@pytest.mark.parametrize("weighting", [None, Fixed([1.0, 2.0, 0.5])], ids=["none", "Fixed"])
def test_without_a_renewal_there_are_the_epochs_rows_alone(weighting, tmp_path):
    run = trainer(weighting=weighting, output=tmp_path)
    run.fit(data(), 3, 8)
    table = pandas.read_csv(tmp_path / "history.csv")
    assert (table.event == "epoch").all() and len(table) == 9 and len(run.run.renewals) == 1


@pytest.mark.parametrize("stop", [3, 7, 11, 20])
def test_a_run_that_was_cut_anywhere_writes_the_same_history(stop, monkeypatch, tmp_path):
    full_run(tmp_path / "whole").fit(data(), 5, 8, **OPTIONS)
    usual = Trainer._step

    def step(self, batches):
        if self.run.step == stop:
            raise KeyboardInterrupt
        usual(self, batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_step", step)
        full_run(tmp_path / "cut", checkpoint_every=1).fit(data(), 5, 8, **OPTIONS)
    resumed = full_run(tmp_path / "cut", checkpoint_every=1)
    resumed.fit(data(), 5, 8, **OPTIONS, resume=True)
    whole, cut = (tmp_path / name / "history.csv" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


@pytest.mark.parametrize("tasks", [1, 617, 5000])
def test_weights_that_change_in_every_step_need_bounded_memory_and_a_resumed_run_keeps_the_same(
    tasks, monkeypatch
):
    monkeypatch.setattr(renewing, "MOST", 2000)
    ones, steps = torch.ones(tasks), 5000
    whole, cut = renewing.Renewals(), renewing.Renewals()
    for renewals in (whole, cut):
        renewals.begin(0, ones.tolist())
    for step in range(1, steps + 1):
        weights = torch.full((tasks,), float(step % 7 + step))
        for renewals in (whole, cut):
            renewals.add(step, weights)
            if step % 10 == 0:
                renewals.look(ones)
        if step == 2340:
            saved = cut.state_dict()
            cut = renewing.Renewals()
            cut.load_state_dict(saved)
            cut.begin(step, weights.tolist())
    kept = [step for step, _ in whole]
    most = max(renewing.LEAST, 2000 // tasks)
    assert most / 2 <= len(kept) <= most and kept[0] == 0 and steps - kept[-1] < 2 * steps / most
    assert len({b - a for a, b in itertools.pairwise(kept)}) == 1
    assert list(whole) == list(cut)


@pytest.mark.parametrize(
    "name", ["a, b", 'the "best"', "two\nlines", "cr\rlf", "été 日本", "\udcff"]
)
def test_any_task_name_comes_back_from_the_table(name, tmp_path):
    learned = {name: {"weight": 1.0, "loss": float("nan"), "count": 2}}
    record.write_history(tmp_path, record.rows(1, 2, learned, {}), [(0, [2.0]), (1, [1.0])])
    with open(tmp_path / "history.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["task"].encode(errors="backslashreplace") for row in found] == [
        name.encode(errors="backslashreplace")
    ] * 3
    assert [(row["event"], row["step"], row["weight"]) for row in found] == [
        ("renewal", "0", "2.0"),
        ("renewal", "1", "1.0"),
        ("epoch", "2", "1.0"),
    ]


def test_pictures_come_after_the_scores_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda *_, **__: pytest.fail("drawn"))
    trainer(output=tmp_path).fit(data(), 1, 8, pictures=False)
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "checkpoints"}
