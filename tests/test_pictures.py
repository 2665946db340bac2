"""The pictures of a run, drawn for any number of tasks and any losses."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from mtlfast.train.report import panels, pictures
from mtlfast.train.report.history import rows
from mtlfast.train.run import Renewals

NAMES = ["digit", "even", "prime"]


def history(names, epochs=3, stopped=(None, 0)):
    """Returns a history in which one task, ``stopped``, is not trained after some epoch."""
    table = []
    for epoch in range(1, epochs + 1):
        tasks = [name for name in names if name != stopped[0] or epoch <= stopped[1]]
        train = {name: {"weight": 1.0, "loss": 1 / epoch, "count": 20} for name in names}
        test = {name: {"loss": 2 / epoch, "count": 9, "metrics": {}} for name in names}
        table += rows(epoch, 10 * epoch, train, test, tasks)
    return table


def size(path):
    """Returns a picture's width and height, from the head of a PNG file."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def weights_after(step, count):
    """Returns weights that change at every fifth step, each task's by another amount."""
    return [1.0 + (number + 1) * (step // 5 % 4) for number in range(count)]


def renewed(names, epochs=3, stopped=(None, 0)):
    """Returns a history whose weights change, and the renewals."""
    found = Renewals()
    found.begin(0, weights_after(0, len(names)))
    for step in range(1, 10 * epochs + 1):
        found.add(step, torch.tensor(weights_after(step, len(names)), dtype=torch.float64))
    found.look(torch.ones(len(names)))
    past = history(names, epochs, stopped)
    for number, row in enumerate(past):
        row["weight"] = weights_after(row["step"], len(names))[number % len(names)]
    return past, found


def drawn(monkeypatch, *arguments, **options):
    """Draws both pictures and returns the figures, by the names of their files."""
    figures, save = {}, panels.save

    def keep(path, figure):
        figures[path.name] = figure
        save(path, figure)

    for module in (panels, pictures):
        monkeypatch.setattr(module, "save", keep)
    pictures.draw(*arguments, **options)
    return figures


def overlaps(figure):
    """Returns the pairs of words of a saved figure that overlap, and the words that leave it."""
    figure.set_dpi(150)  # as it was drawn when it was saved
    words = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        words += [axes.title, axes._left_title, axes._right_title, *axes.texts]
        words += [axes.xaxis.label, axes.yaxis.label]
        for axis, side in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            words += [
                label
                for label in axis.get_ticklabels()
                if label.get_visible() and low <= label.get_position()[side] <= high
            ]
    boxes = [(text.get_text(), text.get_window_extent()) for text in words if text.get_text()]
    pairs = [
        (a, b)
        for i, (a, one) in enumerate(boxes)
        for b, other in boxes[i + 1 :]
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1
        if min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]
    width, height = figure.bbox.size
    return pairs + [t for t, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]


@pytest.mark.parametrize("count, epochs", [(1, 1), (1, 20), (2, 9), (7, 4), (40, 2), (41, 3)])
def test_the_pictures_are_legible_for_any_number_of_tasks(count, epochs, tmp_path, monkeypatch):
    names = [f"a task_with a long name, ${number}_ of\nthem all" for number in range(count)]
    past, found = renewed(names, epochs, stopped=(names[-1], 1))
    figures = drawn(monkeypatch, tmp_path, names, past, found, best=1)
    for name in ("weights.png", "losses.png"):
        width, height = size(tmp_path / name)
        assert width >= 1000 and 300 < height < 2700
        assert (tmp_path / name).stat().st_size > 10_000
        axes = figures[name].axes
        assert len(axes) == (count if count <= 40 else 41) and not overlaps(figures[name])
    assert len(list(tmp_path.iterdir())) == 2


def test_of_many_tasks_the_40_that_changed_most_have_a_panel_below_one_of_all(
    tmp_path, monkeypatch
):
    names = [f"task{number}" for number in range(617)]
    past, found = renewed(names)
    for row in past:
        row["train_loss"] = 1 / row["epoch"] ** (names.index(row["task"]) / 99)
    start = time.process_time()
    figures = drawn(monkeypatch, tmp_path, names, past, found)
    assert time.process_time() - start < 40
    for name, figure in figures.items():
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert titles == ["all tasks", *names[:-41:-1]], name
        words = " ".join(text.get_text() for text in figure.texts)
        assert "All 617 tasks, and the 40 whose" in words
        low, high = figure.axes[0].get_ylim()
        assert sum(low <= tick <= high for tick in figure.axes[0].get_yticks()) >= 2
    assert all(size(tmp_path / name)[1] < 2700 for name in figures)


def test_a_weight_is_drawn_from_the_step_on_at_which_it_was_renewed(tmp_path, monkeypatch):
    past, found = renewed(NAMES)
    figures = drawn(monkeypatch, tmp_path, NAMES, past, found)
    line = next(x for x in figures["weights.png"].axes[2].lines if x.get_label() == "this task")
    x, y = line.get_data()
    for step in range(30):
        drawn_there = y[np.searchsorted(x, (step + 0.5) / 10)]
        assert drawn_there == weights_after(step, 3)[2]


@pytest.mark.parametrize(
    "weights", [[1.0] * 27, [0.5 + k for k in range(27)], [float(k) for k in range(60)]]
)
def test_weights_that_never_change_are_told_and_have_no_panels(weights, tmp_path, monkeypatch):
    names = [f"a task with a long name {number}" for number in range(len(weights))]
    of_name = dict(zip(names, weights, strict=True))
    past = [row | {"weight": of_name[row["task"]]} for row in history(names)]
    monkeypatch.setattr(pictures, "_losses", lambda *_: None)
    figure = drawn(monkeypatch, tmp_path, names, past, [(0, weights)])["weights.png"]
    alike = len(set(weights)) == 1
    assert len(figure.axes) == (0 if alike else 1) and not overlaps(figure)
    words = " ".join(text.get_text() for text in figure.texts)
    assert ("The weight of each of the 27 tasks was 1" if alike else "No weight changed") in words
    assert alike or len(figure.axes[0].patches) == min(40, len(weights))


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
    assert size(tmp_path / "losses.png")[1] > 300 and size(tmp_path / "weights.png")[1] > 100


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
