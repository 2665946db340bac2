"""What a run reports: report.json, history.csv, the tables, and the folder it writes to."""

from __future__ import annotations

import csv
import json
import math

import pytest
from torch import nn

from mtlfast.train import Best, TaskStopping
from mtlfast.train.report import summary, tables
from mtlfast.train.report.history import rows, scalars, write_history
from mtlfast.train.run import Run
from mtlfast.train.tasks import Task

NAMES = ["digit", "even", "prime"]
SETTINGS = {"clip": math.inf, "optimizer": {"betas": (0.9, math.nan)}}


def learned(names, **change):
    return {
        name: {"weight": 1.0 + number, "loss": 0.5 + number, "count": 20, **change}
        for number, name in enumerate(names)
    }


def scores(names, **change):
    metrics = {"accuracy": 0.75, "auroc": None}
    return {
        name: {"loss": 1.0 + number, "count": 9, "metrics": metrics, **change}
        for number, name in enumerate(names)
    }


def history(names, epochs=3, active=lambda name, epoch: True):
    return [
        row
        for epoch in range(1, epochs + 1)
        for row in rows(
            epoch,
            10 * epoch,
            learned(names),
            scores(names),
            [name for name in names if active(name, epoch)],
        )
    ]


def run(past, stopped=(), best=None):
    """Returns the record of a run after ``fit``."""
    tasks = [
        Task("digit", output="o", target="t", loss="cross_entropy"),
        Task(["even", "prime"], output="p", target="p", loss="mse_loss"),
    ]
    rule, chosen = TaskStopping(["even", "prime"], threshold=1.0), Best("loss")
    found = Run(tasks, {}, [rule], None if best is None else chosen)
    found.step, found.seconds, found.history = 40, 2.0, past
    found.stopping[0].stopped = dict(stopped)
    if best is not None:
        found.best.load_state_dict(best)
    return found


def write(output, record, test, settings):
    return summary.write(output, record, nn.Linear(2, 1), test, settings)


def strictly(path):
    """Reads JSON as another language would: NaN and Infinity are errors."""

    def refuse(word):
        pytest.fail(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# report.json


@pytest.mark.parametrize("undefined", [None, math.nan, math.inf])
def test_what_is_not_defined_is_null_and_outside_the_means(undefined, tmp_path):
    test = scores(NAMES)
    test["even"] |= {"loss": undefined, "count": 0, "metrics": {"accuracy": undefined}}
    content = write(tmp_path, run(history(NAMES)), test, SETTINGS | {"data": tmp_path})
    written = strictly(tmp_path / "report.json")
    even = written["tasks"]["even"]
    assert even["losses"]["test"] is None and even["metrics"] == {"accuracy": None}
    assert even["labelled"] == {"train": 20, "validation": 9, "test": 0}
    assert written["mean"]["losses"]["test"] == (1 + 3) / 2
    assert written["mean"]["metrics"] == {"accuracy": 0.75, "auroc": None}
    assert written["settings"]["optimizer"] == {"betas": [0.9, None]}
    assert written == content | {"settings": {**content["settings"], "data": str(tmp_path)}}


def test_without_stopping_and_best_the_report_says_null(tmp_path):
    content = write(tmp_path, run(history(NAMES)), scores(NAMES), {})
    assert [task["stopped"] for task in content["tasks"].values()] == [None] * 3
    assert content["best"] is None


def test_the_report_names_the_best_epoch_and_where_a_group_stopped(tmp_path):
    past = history(NAMES, 5, lambda name, epoch: name == "digit" or epoch <= 2)
    best = {"metric": "loss", "value": 0.5, "epoch": 4}
    content = write(tmp_path, run(past, {"even": 2}, best), scores(NAMES), {})
    assert [task["stopped"] for task in content["tasks"].values()] == [None, 2, 2]
    assert content["best"] == best
    assert content["tasks"]["prime"]["losses"]["train"] == 2.5
    assert content["tasks"]["prime"]["labelled"]["train"] == 20


def test_a_best_without_a_value_is_null(tmp_path):
    best = {"metric": "loss", "value": None, "epoch": None}
    assert write(tmp_path, run(history(NAMES), (), best), scores(NAMES), {})["best"] is None


# history.csv and the tracker


def test_the_history_has_a_row_per_epoch_and_task_and_is_empty_where_nothing_is_defined(tmp_path):
    write_history(tmp_path, history(NAMES, 2, lambda name, epoch: name != "even"))
    with open(tmp_path / "history.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [
        *("epoch", "step", "event", "task", "active", "weight", "train_loss", "train_labels"),
        *("validation_loss", "validation_labels", "validation_accuracy", "validation_auroc"),
    ]
    assert [(row["epoch"], row["task"]) for row in table] == [
        (epoch, name) for epoch in "12" for name in NAMES
    ]
    even = table[1]
    assert (even["active"], even["train_loss"], even["train_labels"]) == ("False", "", "0")
    assert (even["validation_loss"], even["validation_auroc"]) == ("2.0", "")
    assert float(table[5]["train_loss"]) == 2.5 and table[5]["active"] == "True"


def test_the_tracker_gets_flat_names_and_only_numbers():
    past = history(["digit", "even"], 1, lambda name, epoch: name == "digit")
    assert scalars(past) == {
        "weight/digit": 1.0,
        "train_loss/digit": 0.5,
        "validation_loss/digit": 1.0,
        "validation_accuracy/digit": 0.75,
        "weight/even": 2.0,
        "validation_loss/even": 2.0,
        "validation_accuracy/even": 0.75,
    }


# In the terminal


def test_progress_lists_every_task_with_its_numbers_and_their_mean():
    past = history(NAMES, 1, lambda name, epoch: name != "even")
    assert tables.progress(3, 40, past, seconds=12.3).splitlines() == [
        "epoch 3/40, step 10, 12 s",
        "task                weight  train loss  labels  validation loss  validation accuracy"
        "  validation auroc  validation labels",
        "digit                1.000       0.500      20            1.000                0.750"
        "                 -                  9",
        "even (not trained)   2.000           -       0            2.000                0.750"
        "                 -                  9",
        "prime                3.000       2.500      20            3.000                0.750"
        "                 -                  9",
        "mean of all tasks                1.500                    2.000                0.750"
        "                 -                   ",
    ]


@pytest.mark.parametrize("count, lines", [(1, 3), (2, 5), (12, 15), (13, 10), (40, 10)])
def test_progress_stays_short_and_says_what_it_leaves_out(count, lines):
    past = history([f"task{number}" for number in range(count)], 1)
    text = tables.progress(1, 2, past).splitlines()
    assert len(text) == lines and len({len(line) for line in text[1:] if "..." not in line}) == 1
    if count > 12:
        named = [line.split()[0] for line in text[2:9]]
        rest = f"... {count - 6} more tasks, sorted by validation loss; all are in history.csv"
        assert text[5] == rest
        last = [f"task{number}" for number in range(count - 3, count)]
        assert named == ["task0", "task1", "task2", "...", *last]


def test_progress_ranks_by_training_loss_without_validation_data_and_never_what_has_none():
    names = [f"task{number}" for number in range(20)]
    train = learned(names) | {"task0": {"weight": 1.0, "loss": None, "count": 0}}
    text = tables.progress(1, 2, rows(1, 5, train, {})).splitlines()
    assert [line.split()[0] for line in text[2:5]] == ["task1", "task2", "task3"]
    assert "validation" not in "".join(text)


@pytest.mark.parametrize("defined", [0, 2])
def test_progress_shows_what_there_is_where_most_losses_are_undefined(defined):
    names = [f"task{number}" for number in range(20)]
    train = learned(names, loss=None) | learned(names[:defined])
    text = tables.progress(1, 2, rows(1, 5, train, {})).splitlines()
    assert text[2 + defined].startswith(f"... {20 - defined} more tasks")
    assert text[-1].startswith("mean of all tasks") and len(text) == 4 + defined


def test_the_bar_s_end_names_the_largest_losses_with_their_weights():
    losses = [0.1, math.nan, 3.0, None, 2.0, 0.9]
    text = tables.brief(["a", "b", "c" * 30, "d", "e", "f"], losses, [1, 1, 0.25, 1, 1, 2.0])
    assert (
        text
        == f"mean loss 1.500: {'c' * 10}…{'c' * 9} 3.000 x 0.25, e 2.000 x 1.00, f 0.900 x 2.00"
    )
    assert tables.brief(["a", "b"], [0.1, 0.3]) == "mean loss 0.200: b 0.300, a 0.100"
    assert tables.brief(["a"], [math.nan], [1.0]) == "mean loss -"


def test_the_final_table_has_a_line_per_task_and_a_key(tmp_path):
    content = write(tmp_path, run(history(NAMES)), scores(NAMES), {})
    text = tables.table(content).splitlines()
    assert [line.split()[0] for line in text[2:5]] == NAMES
    assert text[6].split() == ["mean", "of", "all", "tasks", "0.750", "-", "2.000"]
