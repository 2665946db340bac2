"""The digits recipe, end to end: what it reads, learns, writes, and how it continues."""

from __future__ import annotations

import csv
import hashlib
import json
import math

import pytest
import torch
from matplotlib.image import imread

from mtlfast.cli import main
from mtlfast.recipes import WEIGHTINGS, digits, make_weighting
from mtlfast.train import Trainer, checkpoint

EPOCHS = 6
TASKS = ["digit", *digits.ATTRIBUTES]
TRAIN = ["train", "digits", "--epochs", str(EPOCHS), "--seed", "1", "--output"]


@pytest.fixture(scope="module", autouse=True)
def restore_threads():
    """The recipe runs on one thread; the tests after it get theirs back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The output directory of a short run."""
    output = tmp_path_factory.mktemp("runs") / "digits"
    assert main([*TRAIN, str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def report(run):
    return json.loads((run / "report.json").read_text())


def test_the_parts_of_the_data_are_disjoint_and_only_training_labels_are_hidden():
    parts = digits.split(0)
    assert {name: len(part) for name, part in parts.items()} == digits.SIZES
    images = {name: {x.numpy().tobytes() for x in part.inputs} for name, part in parts.items()}
    assert len(set.union(*images.values())) == sum(digits.SIZES.values()) == 1797
    for name, part in parts.items():
        hidden = torch.cat([(y < 0).flatten() for y in part.targets.values()]).float().mean()
        assert hidden == pytest.approx(0.3 if name == "train" else 0, abs=0.02)


def test_the_seed_hides_other_labels_but_does_not_move_samples_between_the_parts():
    first, second = digits.split(0), digits.split(1)
    assert all(torch.equal(first[name].inputs, second[name].inputs) for name in first)
    assert not torch.equal(first["train"].targets["digit"], second["train"].targets["digit"])
    assert torch.equal(first["test"].targets["digit"], second["test"].targets["digit"])


def test_a_short_run_learns_every_task(report):
    assert list(report["tasks"]) == TASKS
    for task in report["tasks"].values():
        assert task["metrics"]["accuracy"] > 0.88
        assert task["losses"]["test"] < 0.35
    assert report["mean"]["metrics"]["accuracy"] > 0.93


def test_the_report_counts_labels_and_holds_weights_of_mean_1(report):
    tasks = report["tasks"].values()
    assert all(task["labelled"]["test"] == digits.SIZES["test"] for task in tasks)
    assert all(0.6 < task["labelled"]["train"] / digits.SIZES["train"] < 0.8 for task in tasks)
    weights = [task["weight"] for task in tasks]
    assert sum(weights) == pytest.approx(len(TASKS), rel=1e-5) and len(set(weights)) > 1
    accuracies = [task["metrics"]["accuracy"] for task in tasks]
    assert report["mean"]["metrics"]["accuracy"] == pytest.approx(sum(accuracies) / len(TASKS))


def test_the_report_names_every_setting(report):
    settings = report["settings"]
    assert (settings["recipe"], settings["seed"], settings["epochs"]) == ("digits", 1, EPOCHS)
    assert settings["weighting"].startswith("ValidationLossTrend(num_tasks=7, interval=7")
    assert (settings["batch_size"], settings["optimizer"]["groups"][0]["lr"]) == (32, 1e-3)
    assert report["timing"]["steps"] == EPOCHS * 33 and report["timing"]["train_seconds"] > 0


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_weighting_trains_and_changes_its_weights(name):
    experiment = digits.build(data=None, epochs=1, seed=1, weighting=name, output=None)
    run, data = experiment.trainer, experiment.weight_data
    before = run.weighting.weights.clone()
    first, *_, last = run.fit(experiment.train, 1, experiment.batch_size, weight_data=data)
    assert name == "fixed" or not torch.equal(before, run.weighting.weights)
    assert math.isfinite(first["train_loss"]) and math.isfinite(last["train_loss"])
    optimised = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in run.joint.parameters()} == optimised


@pytest.mark.parametrize("epochs", [1, 3, 10, 40, 300])
def test_weights_are_renewed_often_enough_in_a_run_of_any_length(epochs):
    steps = 33 * epochs
    trend, average = (
        make_weighting(name, 7, steps, epochs)
        for name in ("validation-loss-trend", "dynamic-weight-average")
    )
    assert steps // trend.interval - 1 >= 25 and steps // average.interval - 1 >= 25
    assert average.interval == 33 or epochs < 26
    assert make_weighting("random-weights", 7, steps, epochs, seed=5).seed == 5


def test_the_digest_is_that_of_the_final_model(run, report):
    model = checkpoint.load(checkpoint.newest(run / "checkpoints"))["model"]
    content = b"".join(model[name].numpy().tobytes() for name in sorted(model))
    assert report["weights_sha256"] == hashlib.sha256(content).hexdigest()


def test_the_history_has_a_row_for_each_epoch_and_task(run):
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["event"] for row in rows} == {"epoch", "renewal"}
    rows = [row for row in rows if row["event"] == "epoch"]
    pairs = [(int(row["epoch"]), row["task"]) for row in rows]
    assert pairs == [(epoch + 1, task) for epoch in range(EPOCHS) for task in TASKS]
    assert float(rows[-7]["validation_loss"]) < float(rows[0]["validation_loss"])


@pytest.mark.parametrize("picture", ["weights.png", "losses.png"])
def test_the_pictures_are_drawn(run, picture):
    image = imread(run / picture)
    assert min(image.shape[:2]) > 400 and image[..., :3].std() > 0.05


@pytest.mark.usefixtures("no_pictures")
def test_an_interrupted_run_resumes_to_the_same_bytes(run, report, tmp_path, monkeypatch, capsys):
    usual, calls = Trainer._step, []

    def step(*arguments):
        calls.append(None)
        if len(calls) == 100:  # within the fourth of six epochs
            raise KeyboardInterrupt
        return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        assert main([*TRAIN, str(tmp_path)]) == 130
    assert "--resume continues it" in capsys.readouterr().err
    assert main([*TRAIN, str(tmp_path), "--resume"]) == 0
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["weights_sha256"] == report["weights_sha256"]
    assert again["tasks"] == report["tasks"]
    assert (tmp_path / "history.csv").read_bytes() == (run / "history.csv").read_bytes()


@pytest.mark.usefixtures("no_pictures")
def test_the_table_explains_itself(run, capsys):
    assert main([*TRAIN, str(run), "--resume"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in TASKS)
    assert "mean of all tasks" in table and "Final weight: the factor of the task's loss" in table
