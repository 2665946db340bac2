"""Every file that is written is whole or absent, and what goes wrong is told in one line."""

from __future__ import annotations

import errno
import os
import resource
import threading

import pytest
import torch
from processes import finish, launch
from test_output import claim, names_in, refusal
from torch import nn
from training import data, full_run

from mtlfast import cli
from mtlfast.recipes import digits
from mtlfast.train import MultiTaskModel, checkpoint
from mtlfast.writing import reason, write_atomic


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "other.json").write_text("mine")
    for name in ("linked.json", "dangling.json"):
        (tmp_path / name).symlink_to(tmp_path / ("other.json" if name[0] == "l" else "none"))
        write_atomic(tmp_path / name, b"new")
        assert not (tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "other.json").read_text() == "mine" and not (tmp_path / "none").exists()


def test_overwriting_removes_links_and_not_what_they_point_to(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    for place in (elsewhere, folder):
        place.mkdir()
    (elsewhere / "step-000000001.safetensors").touch()
    (folder / "checkpoints").symlink_to(elsewhere)
    (folder / "report.json").symlink_to(elsewhere / "none")
    assert "holds another run" in refusal(folder, {})
    claim(folder, overwrite=True)
    assert names_in(folder) == set() and len(names_in(elsewhere)) == 1


def test_files_get_the_mode_that_the_mask_leaves_them(tmp_path):
    write_atomic(tmp_path / "file", b"")
    (tmp_path / "usual").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_two_writers_of_one_file_never_meet(tmp_path):
    contents = [bytes([letter]) * 100_000 for letter in b"abcd"]
    writers = [
        threading.Thread(target=lambda c=c: [write_atomic(tmp_path / "x", c) for _ in range(20)])
        for c in contents
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "x").read_bytes() in contents and names_in(tmp_path) == {"x"}


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    kept = {".notes.tmp", "x.tmp", ".x.0123456789abcdeg.tmp", "checkpoints"}
    for name in kept - {"checkpoints"} | {".report.json.0123456789abcdef.tmp"}:
        (tmp_path / name).touch()
    (tmp_path / "checkpoints" / ".step-1.safetensors.00112233445566ff.tmp").touch()
    claim(tmp_path, resume=True)
    assert names_in(tmp_path) == kept and not names_in(tmp_path / "checkpoints")


FULL = [
    (errno.ENOSPC, "No space left on device; free some space"),
    (errno.EDQUOT, "; free some of your quota"),
    (errno.EACCES, "Permission denied; give permission, or name another place"),
    (errno.EFBIG, "File too large; raise the limit"),
]


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number, words", FULL, ids=[errno.errorcode[n] for n, _ in FULL])
def test_a_disk_that_takes_no_more_is_told_with_the_file(
    number, words, call, tmp_path, monkeypatch
):
    write_atomic(tmp_path / "x", b"old")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "x", b"new")
    monkeypatch.undo()
    assert caught.value.errno == number
    line = reason(caught.value)
    assert line.startswith(f"{tmp_path / 'x'}: ") and words in line and "\n" not in line
    assert names_in(tmp_path) == {"x"} and (tmp_path / "x").read_bytes() == b"old"


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "x", b"new")
    assert reason(caught.value) == f"{tmp_path / 'x'}: Is a directory; remove the folder, or " + (
        "name a file"
    )
    assert names_in(tmp_path) == {"x"}


def train_until_full(folder):
    torch.set_num_threads(1)
    full_run(folder).fit(data(), 2, 8, weight_data=data(20, seed=1))
    size = checkpoint.newest(folder / "checkpoints").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size))
    try:
        full_run(folder).fit(data(), 3, 8, weight_data=data(20, seed=1), resume=True)
    except OSError as error:
        (folder / "told").write_text(reason(error))


def test_a_disk_that_fills_up_leaves_the_checkpoint_before_to_go_on_from(tmp_path):
    assert finish(launch(train_until_full, tmp_path)) == [0]
    wanted = f"{tmp_path / 'checkpoints' / 'step-000000015.safetensors'}: File too large; raise"
    assert (tmp_path / "told").read_text().startswith(wanted)
    kept = {"step-000000005.safetensors", "step-000000010.safetensors"}
    assert names_in(tmp_path / "checkpoints") == kept
    full_run(tmp_path).fit(data(), 3, 8, weight_data=data(20, seed=1), resume=True)


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.json"), "x.json: No space left on d"),
        (OSError(errno.ENOENT, "No such file or directory", b"x\xff"), r"x\udcff: No such file"),
        (OSError("no hope."), "no hope."),
        (OSError(errno.EIO, "Input/output error"), "Input/output error."),
    ],
    ids=str,
)
def test_the_command_line_never_tells_a_bare_errno(error, line, monkeypatch, tmp_path, capsys):
    def build(**_):
        raise error

    monkeypatch.setattr(digits, "build", build)
    assert cli.main(["train", "digits", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Errno" not in told
    assert told.startswith(f"mtlfast train: error: {line}")


def test_resuming_where_there_is_no_run_says_that_it_starts_afresh(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "network", lambda: tiny())
    options = ["--output", str(tmp_path), "--epochs", "1", "--weighting", "fixed", "--resume"]
    with pytest.warns(UserWarning, match="checkpoints holds no checkpoint: the run starts afresh."):
        assert cli.main(["train", "digits", *options]) == 0


def tiny():
    heads = {"digit": nn.Linear(64, 10), "attributes": nn.Linear(64, len(digits.ATTRIBUTES))}
    return MultiTaskModel(nn.Flatten(), heads)
