"""The recipes on tables, in short versions: driving, jointvsseparate and slicelabels."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import real_data
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mtlfast.cli import main
from mtlfast.recipes import driving, jointvsseparate, slicelabels
from mtlfast.train import Images, read_table

ROWS = 1200


@pytest.fixture(autouse=True)
def calm(one_thread):
    """One thread for all of them."""


@pytest.fixture(scope="module")
def tox21(tmp_path_factory):
    """The first rows of Tox21, in a folder of their own."""
    arrays = np.load(real_data.folder("tox21") / "tox21_ecfp1024.npz")
    folder = tmp_path_factory.mktemp("data") / "tox21"
    folder.mkdir()
    kept = {name: arrays[name][:ROWS] for name in ("fp_packed", "labels")}
    np.savez(folder / "x.npz", **kept, task_names=arrays["task_names"])
    return folder


@pytest.fixture
def emotions():
    return real_data.folder("mulan_emotions")


@pytest.fixture
def small(tmp_path):
    """A table of random bits in CSV, five labels of which some are '?'."""
    generator = np.random.default_rng(0)
    cells = generator.integers(0, 2, (60, 11)).astype(str)
    cells[generator.random(cells.shape) < 0.1 * (np.arange(11) >= 6)] = "?"
    lines = [",".join([*"abcdef", *(f"y{number}" for number in range(5))]), *map(",".join, cells)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    return tmp_path


def run(name, output, *options):
    """Runs a recipe from the command line and returns its report."""
    assert main(["train", name, "--output", str(output), *map(str, options)]) == 0
    return json.loads((output / "report.json").read_text())


def error(capsys, *arguments):
    """Runs a command that must fail and returns its one line on standard error."""
    assert main(list(map(str, arguments))) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def fitted(recipe, **options):
    """Returns an experiment after it was fitted."""
    options = {"epochs": 1, "seed": 0, "weighting": "fixed"} | options
    experiment = recipe.build(**options)
    data = {"validation": experiment.validation, "weight_data": experiment.weight_data}
    experiment.trainer.fit(experiment.train, options["epochs"], experiment.batch_size, **data)
    return experiment


def gradients(experiment):
    return [parameter.grad for parameter in experiment.trainer.model.parameters()]


@pytest.mark.usefixtures("no_pictures")
def test_driving_learns_tox21_from_the_command_line(tox21, tmp_path, capsys):
    report = run("driving", tmp_path, "--data", tox21, "--epochs", 4, "--width", 150)
    assert list(report["figures"]) == ["train auroc", "validation auroc", "test auroc"]
    assert report["figures"]["train auroc"] > 0.75 and report["figures"]["test auroc"] > 0.6
    assert len(report["tasks"]) == 12
    assert report["tasks"]["NR-AR"]["labelled"]["train"] < 0.8 * ROWS
    setting = "joint, weighting fixed, split index, metric auroc, width 150"
    assert f"| Driving example: '?' labels | {setting} | tox21 |" in capsys.readouterr().out


def test_driving_divides_the_sum_over_labelled_entries_by_the_rows(small):
    """One step on all 48 rows, dropout off: its gradient is that of the formula in plain torch."""
    options = {"data": small, "labels": 5, "epochs": 1, "seed": 0, "weighting": "fixed"}
    stepped, plain = (driving.build(**options) for _ in range(2))
    stepped.trainer.model.backbone[3].p = 0.0
    stepped.trainer.fit(stepped.train, 1, stepped.batch_size)
    x, y = plain.train.inputs, plain.train.targets["labels"]
    yes, no = (y == 1).sum(0), (y == 0).sum(0)
    weight = torch.where(y == 1, (yes + no) / yes, 0) + torch.where(y == 0, (yes + no) / no, 0)
    model = plain.trainer.model.eval()
    logits = model(x)["labels"]
    entries = F.binary_cross_entropy_with_logits(logits, y.nan_to_num(), weight, reduction="sum")
    (entries / len(y)).backward()
    assert len(y) == 48 and y.isnan().any()
    for one, other in zip(gradients(stepped), gradients(plain), strict=True):
        torch.testing.assert_close(one, other)


def test_driving_decays_matrices_by_the_gradient_of_the_penalty(small):
    optimizer = driving.build(
        data=small, labels=5, epochs=1, seed=0, weighting="uncertainty"
    ).trainer.optimizer
    matrices, rest = optimizer.param_groups
    assert type(optimizer) is torch.optim.Adam and matrices["weight_decay"] == 0.1
    assert [p.dim() for p in matrices["params"]] == [2, 2] and rest["weight_decay"] == 0
    assert len(rest["params"]) == 3


def test_both_classes_of_a_task_weigh_the_same():
    labels = torch.tensor([[1, 0], [0, 0], [0, -1], [-1, 1]])
    loss = driving.balanced(labels)
    assert loss.weight.tolist() == [1.5, 1.5] and loss.pos_weight.tolist() == [2, 2]


@pytest.mark.parametrize("weighting", ["validation-loss-trend", "uncertainty"])
@pytest.mark.parametrize("split", ["index", "random"])
def test_driving_takes_any_table_split_and_weighting(small, split, weighting):
    names = ["y4", "y0", "y1", "y2", "y3"]
    options = {"labels": names, "split": split, "metric": "accuracy", "width": 20}
    experiment = fitted(driving, data=small, weighting=weighting, **options)
    assert experiment.trainer.names == names and len(experiment.weight_data) == 4
    assert set(experiment.measure()) == {f"{p} accuracy" for p in ("train", "validation", "test")}


def test_a_given_split_without_validation_data_leaves_it_out(emotions):
    experiment = fitted(driving, data=emotions, split="given", width=50)
    assert list(experiment.measure()) == ["train auroc", "test auroc"]


def test_one_network_and_many_are_compared_task_by_task(tox21, tmp_path, capsys):
    options = ["--data", tox21, "--epochs", 1, "--width", 50]
    report = run("jointvsseparate", tmp_path, *options)
    figures = report["figures"]
    with open(tmp_path / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows] == list(report["tasks"])
    assert all(float(row["joint"]) > 0 and float(row["separate"]) > 0 for row in rows)
    means = [np.mean([float(row[name]) for row in rows]) for name in ("joint", "separate")]
    assert [figures["joint auroc"], figures["separate auroc"]] == pytest.approx(means)
    assert figures["joint parameters / M"] < figures["separate parameters / M"] / 5
    assert 0 < figures["joint seconds"] < figures["separate seconds"]
    assert "auroc: joint, separate, difference" in capsys.readouterr().out


def test_a_network_alone_has_the_joint_ones_width_and_one_head(small):
    experiment = fitted(jointvsseparate, data=small, labels=5, width=20, variant="both")
    figures = experiment.measure()
    assert figures["joint parameters / M"] == pytest.approx((6 * 20 + 20 + 5 * 21) / 1e6)
    assert figures["separate parameters / M"] == pytest.approx(5 * (6 * 20 + 20 + 21) / 1e6)
    joint = jointvsseparate.build(
        data=small, epochs=1, seed=0, weighting="fixed", labels=5, variant="joint"
    )
    assert set(joint.measure()) == {"train auroc", "validation auroc", "test auroc"}


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("hidden", [0, 0.5])
def test_slicelabels_learns_emotions_from_the_command_line(emotions, tmp_path, hidden):
    report = run("slicelabels", tmp_path, "--data", emotions, "--epochs", 12, "--hidden", hidden)
    assert report["figures"]["Hamming loss"] < 0.25 and report["figures"]["micro-F1"] > 0.5
    tasks = report["tasks"].values()
    assert [task["weight"] for task in tasks] == pytest.approx([1 / 6] * 6)
    labelled = sum(task["labelled"]["train"] for task in tasks) / (6 * 391)
    assert labelled == pytest.approx(1 - hidden, abs=0.03)
    assert all(task["labelled"]["test"] == 202 for task in tasks)


def test_five_weights_of_a_fifth_give_a_fifth_of_the_gradient_of_five_of_one(emotions, monkeypatch):
    monkeypatch.setattr(slicelabels, "BATCH_SIZE", 391)
    options = {"data": emotions, "labels": 5}
    fifth, one = (fitted(slicelabels, variant=kind, **options) for kind in ("sum", "mean"))
    assert fifth.trainer.weighting.weights.tolist() == pytest.approx([0.2] * 5)
    assert one.trainer.weighting.weights.tolist() == [1] * 5
    for small, large in zip(gradients(fifth), gradients(one), strict=True):
        torch.testing.assert_close(5 * small, large, rtol=1e-4, atol=1e-8)


def test_slicelabels_takes_text_lists_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(slicelabels, "BATCH_SIZE", 4)
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        lines = []
        for number in range(40):
            light = number % 2
            pixels = generator.integers(200 * light, 200 * light + 56, (6, 6)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{part}{number}.png")
            lines.append(f"{part}{number}.png {light} {1 - light} {light} {1 - light} ?")
        lines[0] = f"{part}0.png 0 1 0 1 1"
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
    experiment = fitted(slicelabels, data=tmp_path, epochs=20, hidden=0.2)
    assert isinstance(experiment.train, Images) and experiment.validation is None
    assert isinstance(experiment.trainer.model.heads["label5"], nn.Linear)
    assert experiment.measure()["Hamming loss"] < 0.1


RECIPES = ("driving", "jointvsseparate", "slicelabels")


@pytest.mark.parametrize("name", RECIPES)
def test_a_data_path_without_a_table_is_refused_with_what_it_needs(name, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    line = error(capsys, "train", name, "--data", tmp_path, "--output", tmp_path / "run")
    assert "a table must be an .npz or .csv file" in line and "which holds notes.txt" in line
    line = error(capsys, "train", name, "--data", tmp_path / "no", "--output", tmp_path / "run")
    assert "no, which does not exist" in line


@pytest.mark.parametrize("name", RECIPES)
def test_an_unknown_token_is_refused_with_its_place(name, tmp_path, capsys):
    (tmp_path / "x.csv").write_text("a,y,z\n1,0,1\n2,1,maybe\n")
    options = ("--data", tmp_path, "--labels", "2", "--output", tmp_path / "run")
    assert "row 2, column 'z': must be a number" in error(capsys, "train", name, *options)


BAD = [
    ("driving", ["--split", "scaffold"], "split must be one of index, random, given; got 'scaff"),
    ("driving", ["--split", "given"], "split 'given' needs a split in the table"),
    ("driving", ["--metric", "beauty"], "torchmetrics has no metric 'beauty' for a binary task"),
    ("driving", ["--labels", "y0,y9"], "has no column 'y9'"),
    ("driving", ["--width", "0"], "width must be at least 1; got 0"),
    ("slicelabels", ["--hidden", "1"], "hidden must be a share of the labels, below 1; got 1.0"),
]


@pytest.mark.parametrize("name, options, message", BAD, ids=[message for *_, message in BAD])
def test_bad_options_are_refused_in_one_line(name, options, message, small, tmp_path, capsys):
    labels = [] if "--labels" in options else ["--labels", "5"]
    given = [*labels, *options, "--data", small, "--output", tmp_path / "run"]
    assert message in error(capsys, "train", name, *given)


def test_labels_that_are_no_answers_are_refused(tmp_path, capsys):
    lines = [f"{number},{number % 3}" for number in range(30)]
    (tmp_path / "x.csv").write_text("\n".join(["a,y", *lines]))
    options = ("--data", tmp_path, "--labels", "y", "--output", tmp_path / "run")
    wanted = "must be 0 or 1, NaN or negative where missing; got 2 in row 3 of 'y': for regression"
    assert wanted in error(capsys, "train", "driving", *options)


def test_a_part_without_both_classes_has_no_figure(tmp_path, capsys):
    lines = [f"{number % 7},{number % 2 if number < 80 else 1}" for number in range(100)]
    (tmp_path / "x.csv").write_text("\n".join(["a,y", *lines]))
    options = ("--data", tmp_path, "--labels", "y", "--width", 5, "--epochs", 1)
    figures = run("driving", tmp_path / "run", *options)["figures"]
    assert figures["train auroc"] > 0 and figures["validation auroc"] is None
    assert "validation auroc -, test auroc -" in capsys.readouterr().out


def test_a_table_in_csv_holds_the_labels_of_the_npz(tmp_path):
    """Missing as '?' and as -1 is the same to the loss."""
    labels = np.array([[1, -1], [0, 1], [-1, 0]], dtype=np.int8)
    np.savez(tmp_path / "x.npz", X=np.eye(3), Y=labels)
    cells = "\n".join(
        ",".join(["0", *row]) for row in np.where(labels < 0, "?", labels.astype(str))
    )
    (tmp_path / "x.csv").write_text(f"a,y,z\n{cells}\n")
    tables = [read_table(tmp_path / name, labels=2) for name in ("x.npz", "x.csv")]
    first, second = (driving.balanced(table.labels) for table in tables)
    logits = torch.randn(3, 2)
    torch.testing.assert_close(first(logits, tables[0].labels), second(logits, tables[1].labels))
