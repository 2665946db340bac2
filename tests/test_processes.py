"""Two processes train as one does, and a run that is killed ends as if it had not been."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import time

import pytest
import torch
from processes import (
    CASES,
    finish,
    launch,
    refuse_to_go_on,
    train,
    train_all,
    train_from_the_command_line,
    train_long,
)

from mtlfast.train import checkpoint

# Several processes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What two processes made of every case."""
    folder = tmp_path_factory.mktemp("two")
    assert finish(launch(train_all, str(folder), processes=2), seconds=120) == [0, 0]
    return {name: checkpoint.load(folder / f"{name}.safetensors") for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_does(name, outcomes):
    alone, together = train(name), outcomes[name]
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        torch.testing.assert_close(
            *(torch.tensor(v) if isinstance(v, list) else v for v in (together[key], value)),
            rtol=1e-12,
            atol=1e-12,
            msg=lambda text, key=key: f"{key}: {text}",
        )


# Kills


def newest(folder):
    """Returns the newest checkpoint, its time aside."""
    path = checkpoint.newest(folder / "checkpoints")
    state = checkpoint.load(path)
    del state["seconds"]
    return path.name, state


def same(first, second):
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or first != first


def wait_for_another(folder, known, started):
    """Waits for a checkpoint besides the one that is known."""
    while (path := checkpoint.newest(folder / "checkpoints")) is None or path.name == known:
        assert all(process.is_alive() for process in started)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Returns the folder of a whole run of so many processes, which is made once."""

    @functools.cache
    def made(processes):
        folder = tmp_path_factory.mktemp("whole")
        assert set(finish(launch(train_long, str(folder), False, processes=processes))) == {0}
        return folder

    return made


@pytest.mark.parametrize("processes, kills", [(1, 3), (2, 2)])
def test_a_run_that_is_killed_resumes_to_the_same_bytes(processes, kills, uninterrupted, tmp_path):
    whole, cut = uninterrupted(processes), tmp_path / "cut"
    moments, steps = random.Random(processes), []
    for kill in range(kills):
        started = launch(train_long, str(cut), kill > 0, 0.05, processes=processes)
        before = steps[-1] if steps else ""
        wait_for_another(cut, before, started)
        time.sleep(0.2 * moments.random())
        for process in started:
            process.kill()
        finish(started)
        steps.append(checkpoint.newest(cut / "checkpoints").name)
    assert len(set(steps)) == kills and steps[-1] < newest(whole)[0]
    assert set(finish(launch(train_long, str(cut), True, processes=processes))) == {0}
    assert same(newest(whole), newest(cut))
    assert (whole / "history.csv").read_bytes() == (cut / "history.csv").read_bytes()


@pytest.mark.parametrize(
    "fault, message",
    [
        ("reading", "checkpoints must hold a whole checkpoint; all 1 are damaged."),
        ("restoring", "it is not for me"),
    ],
)
def test_where_one_process_cannot_go_on_all_say_why(fault, message, tmp_path):
    told = tmp_path / "told"
    told.mkdir()
    group = launch(refuse_to_go_on, str(tmp_path / "run"), str(told), fault, processes=2)
    assert finish(group) == [0, 0]
    assert all(message in (told / rank).read_text() for rank in "01")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_resumes_from_the_middle_of_an_epoch(processes, uninterrupted, tmp_path):
    whole, cut = uninterrupted(processes), tmp_path / "cut"
    finish(launch(train_long, str(cut), False, 0.0, 23, processes=processes))
    assert newest(cut)[0] == "step-000000022.safetensors" and 22 % 4 != 0
    assert set(finish(launch(train_long, str(cut), True, processes=processes))) == {0}
    assert same(newest(whole), newest(cut))
    assert (whole / "history.csv").read_bytes() == (cut / "history.csv").read_bytes()


def test_the_program_in_two_processes_resumes_to_the_same_report(tmp_path):
    def run(name, *options):
        arguments = ("--epochs", "2", "--output", str(tmp_path / name), *options)
        return launch(train_from_the_command_line, *arguments, processes=2)

    assert finish(run("whole")) == [0, 0]
    started = run("cut", "--checkpoint-every", "10")
    wait_for_another(tmp_path / "cut", "", started)
    for process in started:
        os.kill(process.pid, signal.SIGTERM)
    assert finish(started) == [128 + signal.SIGTERM] * 2
    assert newest(tmp_path / "cut")[1]["step"] < 66
    assert finish(run("cut", "--resume")) == [0, 0]
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("whole", "cut")]
    for report in reports:
        del report["timing"], report["settings"]["output"]
    assert reports[0] == reports[1]
    histories = [(tmp_path / name / "history.csv").read_bytes() for name in ("whole", "cut")]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_between_two_steps_and_ends_the_run(
    number, processes, tmp_path
):
    started = launch(train_long, str(tmp_path), False, 0.05, processes=processes)
    wait_for_another(tmp_path, "", started)
    for process in started:
        os.kill(process.pid, number)
    assert set(finish(started)) == {1}
    assert 0 < newest(tmp_path)[1]["step"] < 48
