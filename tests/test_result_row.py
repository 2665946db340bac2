"""The row that a run ends with, and what is written before the pictures are drawn."""

from __future__ import annotations

import json
import math
import re
import time

import numpy as np
import pytest
import torch

from mtlfast.cli import main
from mtlfast.recipes import RECIPES, driving, recipe, row, slicelabels
from mtlfast.train.output import FILES
from mtlfast.train.report import pictures, summary, tables

TOX21, EMOTIONS = driving.TOX21, slicelabels.EMOTIONS
COMMON = {"data": "x", "seed": 0, "variant": "v"}


def cells_of(name, tasks, **options):
    chosen = {**COMMON, "weighting": "fixed", **options}
    text = row(recipe(name), chosen, {"tasks": dict.fromkeys(tasks), "figures": {"f": 0.5}})
    return [cell.strip() for cell in text.splitlines()[-1].strip("|").split(" | ")]


CLAIMS = [
    ("driving", TOX21, {"split": "index", "metric": "auroc"}, True),
    ("driving", TOX21[::-1], {"split": "random", "metric": "auroc"}, True),
    ("driving", TOX21, {"split": "index", "metric": "accuracy"}, False),
    ("driving", TOX21, {"split": "given", "metric": "auroc"}, False),
    ("driving", TOX21[:-1], {"split": "index", "metric": "auroc"}, False),
    ("driving", [f"task{n}" for n in range(12)], {"split": "index", "metric": "auroc"}, False),
    ("slicelabels", EMOTIONS, {"hidden": 0.0}, True),
    ("slicelabels", EMOTIONS, {"hidden": 0.5}, False),
    ("slicelabels", ["a", "b"], {"hidden": 0.0}, False),
    ("auxheads", ["digit"], {}, True),
]


@pytest.mark.parametrize("name, tasks, options, shown", CLAIMS)
def test_what_was_reported_stands_in_the_row_only_for_the_data_it_is_of(
    name, tasks, options, shown
):
    assert cells_of(name, tasks, **options)[3] == (recipe(name).CLAIM if shown else "-")


@pytest.mark.parametrize("name", RECIPES)
def test_a_figure_that_was_reported_belongs_to_certain_data(name):
    module = recipe(name)
    assert hasattr(module, "claimed") == bool(re.search(r"\.\d\d", module.CLAIM))


@pytest.mark.parametrize("weighting", ["fixed", "validation-loss-trend"])
def test_the_row_names_the_weighting(weighting):
    setting = cells_of("auxheads", ["digit"], weighting=weighting, width=3)[1]
    assert setting == f"v, weighting {weighting}, width 3"


def test_a_cell_stays_one_cell():
    cells = cells_of("auxheads", ["digit"], data="a|b\nc.npz")
    assert len(cells) == 6 and cells[2] == r"a\|b c.npz"


def table_of(folder, tasks, rows=90):
    """Writes a table of random bits with so many tasks, half of the labels missing."""
    generator = np.random.default_rng(0)
    labels = generator.integers(-1, 2, (rows, tasks)).astype(np.int8)
    names = [f"assay {number}, a name that is too long for a title" for number in range(tasks)]
    x = generator.random((rows, 8), dtype=np.float32)
    np.savez(folder / "x.npz", X=x, Y=labels, task_names=np.array(names))
    return folder / "x.npz"


def test_scores_are_written_before_the_pictures_are_drawn(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        assert json.loads((tmp_path / "run/report.json").read_text())["tasks"]
        assert (tmp_path / "run/history.csv").exists() and "mean of all" in capsys.readouterr().out
        raise ValueError("the disk is full.")

    monkeypatch.setattr(pictures, "draw", fail)
    data = str(table_of(tmp_path, 3))
    assert main(["train", "driving", "--data", data, "--epochs", "1", "--width", "4",
                 "--output", str(tmp_path / "run")]) == 2  # fmt: skip
    assert "the disk is full." in capsys.readouterr().err


def test_a_run_of_617_tasks_from_the_command_line_takes_less_than_a_minute(tmp_path, capsys):
    data, output = str(table_of(tmp_path, 617)), tmp_path / "run"
    start = time.process_time()
    command = ["train", "driving", "--data", data, "--epochs", "2", "--width", "8"]
    command += ["--weighting", "validation-loss-trend", "--output", str(output)]
    assert main(command) == 0
    assert time.process_time() - start < 60
    assert {path.name for path in output.iterdir()} == set(FILES)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[2]) < 200 and max(map(len, lines[4:620])) < 120


# Numbers and names that other programs must read


@pytest.mark.parametrize("number", [math.nan, np.float32(np.nan), np.float64(np.inf), -math.inf])
def test_no_number_that_json_lacks_is_written(number):
    plain = summary._plain({"a": [number, (number, {"b": number})], "c": np.float32(0.5)})
    assert plain == {"a": [None, [None, {"b": None}]], "c": 0.5}
    json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize("name", ["a" * 300, "two\nlines", "tab\tand \x1b[31mred", "日本語" * 40])
def test_a_table_stays_aligned_whatever_a_task_is_called(name):
    task = {"metrics": {"accuracy": 0.5}, "losses": {"test": 1.0}, "weight": 1.0}
    task |= {"labelled": {"test": 3, "train": 4}}
    content = {"tasks": {name: task, "b": task}}
    content["mean"] = {"metrics": {"accuracy": 0.5}, "losses": {"test": 1.0}}
    lines = tables.table(content).split("\n\n")[0].splitlines()
    assert len(lines) == 6 and len(set(map(len, lines))) == 1 and len(lines[0]) < 140
    assert all(line.isprintable() for line in lines)


def test_torch_numbers_keep_no_bare_nan_in_the_report():
    text = json.dumps(summary._plain({"x": torch.tensor(math.nan)}), default=str, allow_nan=False)
    assert json.loads(text) == {"x": "tensor(nan)"}
