"""The output directory belongs to one run at a time, and every file in it is whole or absent."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time

import pytest
from accelerate import PartialState
from messages import message_of
from processes import CONTEXT, finish, launch
from training import data, trainer

from mtlfast import cli
from mtlfast.train import output
from mtlfast.train.output import claimed


def alone():
    return PartialState(cpu=True)


def fill(folder):
    for name in (*output.FILES, "notes.txt"):
        (folder / name).mkdir() if name == "checkpoints" else (folder / name).touch()


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def claim(folder, **options):
    with claimed(folder, alone(), **options):
        pass


# Whose it is


def test_checking_makes_the_folder_and_leaves_everything_in_it(tmp_path):
    output.check(tmp_path / "new" / "run")
    assert names_in(tmp_path / "new" / "run") == set()
    fill(tmp_path / "new" / "run")
    for _ in range(2):
        output.check(tmp_path / "new" / "run", overwrite=True)
        output.check(tmp_path / "new" / "run", resume=True)
    assert names_in(tmp_path / "new" / "run") == {*output.FILES, "notes.txt"}


def test_only_clearing_removes_and_only_the_earlier_run(tmp_path):
    fill(tmp_path)
    output.clear(tmp_path)
    output.clear(tmp_path)
    assert names_in(tmp_path) == {"notes.txt"}


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_claim_by_one_process_refuses_keeps_or_removes_an_earlier_run(options, tmp_path):
    fill(tmp_path)
    if options:
        claim(tmp_path, **options)
        assert ("report.json" in names_in(tmp_path)) == ("resume" in options)
    else:
        refused = "holds another run; resume continues it"
        message_of(lambda: claim(tmp_path), ValueError, refused)
        assert "report.json" in names_in(tmp_path)


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_folder_that_cannot_be_made_is_refused(place, tmp_path):
    (tmp_path / "file").touch()
    got = ".*exist" if place == "file" else "Not a directory"
    message_of(lambda: claim(tmp_path / place), ValueError, f"must be writable; got: {got}")


@pytest.mark.parametrize("step", ["check", "clear"])
def test_a_folder_without_permission_is_refused(step, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    fill(tmp_path)
    module, name = (output.tempfile, "TemporaryFile") if step == "check" else (os, "rmdir")
    monkeypatch.setattr(module, name, refuse)
    call = output.check if step == "check" else output.clear
    message_of(lambda: call(tmp_path), ValueError, "must be writable; got: Permission denied")


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_of_two_runs_in_one_directory_the_second_says_so_and_changes_nothing(options, tmp_path):
    with claimed(tmp_path, alone()):
        fill(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        told = []
        second = threading.Thread(target=lambda: told.append(refusal(tmp_path, options)))
        second.start()
        second.join()
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    wanted = f"the output directory {tmp_path} must be of one run at a time; process {os.getpid()} "
    assert told[0].startswith(wanted) and told[0].endswith("is at it: wait, or name another.")
    assert names_in(tmp_path) == {*output.FILES, "notes.txt"}
    claim(tmp_path, overwrite=True)


def refusal(folder, options):
    with pytest.raises(ValueError) as caught:
        claim(folder, **options)
    return str(caught.value)


def test_fit_holds_the_directory_until_it_ends_and_also_where_it_fails(tmp_path):
    run, told = trainer(output=tmp_path), []
    usual = run._epoch

    def epoch(*arguments):
        second = threading.Thread(target=lambda: told.append(refusal(tmp_path, {"resume": True})))
        second.start()
        second.join()
        usual(*arguments)
        raise KeyboardInterrupt

    run._epoch = epoch
    with pytest.raises(KeyboardInterrupt):
        run.fit(data(), 2, 8)
    assert "must be of one run at a time" in told[0]
    assert ".lock" not in names_in(tmp_path)


def hold(folder, ready):
    with claimed(folder, alone()):
        if not os.fork():  # as a worker of a DataLoader, which must not keep the lock
            time.sleep(60)
            os._exit(0)
        ready.touch()
        time.sleep(60)


def test_the_lock_is_free_once_its_process_is_killed_whatever_children_it_has(tmp_path):
    (holder,) = launch(hold, tmp_path / "run", tmp_path / "ready")
    while not (tmp_path / "ready").exists():
        assert holder.is_alive()
        time.sleep(0.02)
    assert f"process {holder.pid} on" in refusal(tmp_path / "run", {})
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    claim(tmp_path / "run")
    assert names_in(tmp_path / "run") == set()


def start(folder, gate, index):
    gate.wait()
    with open(f"{folder}.{index}", "w") as told, contextlib.redirect_stderr(told):
        code = cli.main(["train", "digits", "--epochs", "2", "--output", str(folder)])
    os._exit(code)


def test_of_two_commands_started_together_one_wins_and_the_other_says_so(tmp_path):
    gate = CONTEXT.Barrier(2)
    started = [
        process for index in range(2) for process in launch(start, tmp_path / "run", gate, index)
    ]
    codes = finish(started)
    assert sorted(codes) == [0, 2]
    line = (tmp_path / f"run.{codes.index(2)}").read_text()
    assert line.count("\n") == 1
    assert "must be of one run at a time" in line or "holds another run" in line
    assert names_in(tmp_path / "run") == set(output.FILES)


def claim_in_a_group(folder, told):
    try:
        claim(folder)
        text = "mine"
    except ValueError as error:
        text = str(error)
    (told / str(alone().process_index)).write_text(text)


@pytest.mark.parametrize("taken", [False, True])
def test_of_several_processes_one_has_the_lock_and_all_hear_of_a_refusal(taken, tmp_path):
    told, folder = tmp_path / "told", tmp_path / "run"
    told.mkdir()
    if taken:
        with claimed(folder, alone()):
            codes = finish(launch(claim_in_a_group, folder, told, processes=2))
    else:
        codes = finish(launch(claim_in_a_group, folder, told, processes=2))
    assert codes == [0, 0]
    texts = [(told / rank).read_text() for rank in "01"]
    assert all("of one run at a time" in t if taken else t == "mine" for t in texts)


def test_a_directory_that_cannot_be_locked_is_used_with_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(output.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked .No locks available.: see to it"):
        claim(tmp_path)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_no_file_in_the_place_of_the_lock_is_refused(kind, tmp_path):
    lock = tmp_path / ".lock"
    lock.symlink_to(tmp_path / "elsewhere") if kind == "link" else lock.mkdir()
    message_of(lambda: claim(tmp_path), ValueError, "must be writable; got: ")
    assert not (tmp_path / "elsewhere").exists()
