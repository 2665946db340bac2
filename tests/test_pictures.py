"""The pictures of a run, drawn for any number of tasks and any losses."""

from __future__ import annotations

import math

import pytest

from mtlfast.train import pictures, report

NAMES = ["digit", "even", "prime"]


def history(names, epochs=3, stopped=(None, 0)):
    """Returns a history in which one task, ``stopped``, is not trained after some epoch."""
    table = []
    for epoch in range(1, epochs + 1):
        tasks = [name for name in names if name != stopped[0] or epoch <= stopped[1]]
        train = {name: {"weight": 1.0, "loss": 1 / epoch, "count": 20} for name in names}
        test = {name: {"loss": 2 / epoch, "count": 9, "metrics": {}} for name in names}
        table += report.rows(epoch, 10 * epoch, train, test, tasks)
    return table


def size(path):
    """Returns a picture's width and height, from the head of a PNG file."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


@pytest.mark.parametrize("count, epochs", [(1, 1), (1, 20), (7, 4), (40, 2)])
def test_the_pictures_are_drawn_for_any_number_of_tasks(count, epochs, tmp_path):
    names = [f"a task with a long name ${number}_" for number in range(count)]
    past = history(names, epochs, stopped=(names[-1], 1))
    pictures.draw(tmp_path, names, past, best=1)
    for name in ("weights.png", "losses.png"):
        width, height = size(tmp_path / name)
        assert width >= 1200 and 300 < height < 2400
        assert (tmp_path / name).stat().st_size > 10_000
    assert len(list(tmp_path.iterdir())) == 2


ODD = {
    "zero": {"train_loss": 0.0},
    "negative": {"validation_loss": -1.0},
    "infinite": {"train_loss": math.inf, "validation_loss": math.nan},
    "constant": {"train_loss": 1.0, "validation_loss": 1.0},
    "nothing": {"train_loss": None, "validation_loss": None, "active": False},
    "seven decades": {"train_loss": 1e-7},
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_the_pictures_bear_odd_losses(change, tmp_path):
    pictures.draw(tmp_path, NAMES[:1], [row | change for row in history(NAMES[:1])])
    assert size(tmp_path / "losses.png") == size(tmp_path / "weights.png")


def test_a_history_of_an_earlier_version_is_drawn_and_none_draws_nothing(tmp_path):
    pictures.draw(tmp_path, NAMES, [])
    assert not list(tmp_path.iterdir())
    keys = ("epoch", "task", "weight", "train_loss")
    pictures.draw(tmp_path, NAMES, [{key: row[key] for key in keys} for row in history(NAMES)])
    assert size(tmp_path / "losses.png")


@pytest.mark.parametrize("change", ["stopped", "best"])
def test_where_a_task_stopped_and_the_best_epoch_are_marked(change, tmp_path):
    drawn = []
    for folder in ("plain", "marked"):
        (tmp_path / folder).mkdir()
        marked = folder == "marked"
        past = history(NAMES, 5, ("even", 2) if marked and change == "stopped" else (None, 0))
        best = 3 if marked and change == "best" else None
        pictures.draw(tmp_path / folder, NAMES, past, best=best)
        paths = [tmp_path / folder / name for name in ("weights.png", "losses.png")]
        drawn.append([path.read_bytes() for path in paths])
    (weights, losses), (marked_weights, marked_losses) = drawn
    assert losses != marked_losses and (weights != marked_weights) == (change == "stopped")
