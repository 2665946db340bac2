"""Whatever stands in the place of a file that is read, it is told in one line, and never waited on.

Pipes, folders, links to nothing, names that are no UTF-8, files without permission.
"""

from __future__ import annotations

import json
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from messages import message_of
from PIL import Image
from training import data, trainer

from mtlfast import cli
from mtlfast.bench import compare
from mtlfast.bench.session import FORMAT
from mtlfast.data.text import read_text
from mtlfast.train import Images, read_folder, read_list, read_table


def pipe(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()


def dangling(path):
    path.symlink_to(path.with_name("nothing"))


PLACES = [pipe, folder, dangling]
READERS = {
    "table.npz": lambda path: read_table(path, 1),
    "table.csv": lambda path: read_table(path, 1),
    "list.txt": read_list,
    "labels.csv": lambda path: read_folder(path.parent, path.name),
    "image.png": lambda path: Images([path], torch.zeros(1, 1), ["a"]),
    "bench.json": compare.load,
}


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_told_with_its_name(name, make, tmp_path):
    make(tmp_path / name)
    message_of(lambda: READERS[name](tmp_path / name), ValueError, name.replace(".", r"\."))


@pytest.mark.parametrize("name", READERS)
def test_a_file_without_permission_is_told_with_its_name(name, tmp_path, monkeypatch, capsys):
    (tmp_path / name).write_bytes(b"content")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    for module in ("builtins.open", "io.open", "pathlib.Path.open", "pathlib.Path.read_bytes"):
        monkeypatch.setattr(module, refuse)
    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises((ValueError, OSError)) as caught:
        READERS[name](tmp_path / name)
    monkeypatch.undo()
    assert "Permission denied" in str(caught.value) and name in str(caught.value)


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width, height, pixels=b""):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


IMAGES = {
    "a bomb": png(60_000, 60_000),
    "no pixels": png(4, 4),
    "no width": png(0, 4),
    "cut": png(4, 4, os.urandom(20))[:45],
    "empty": b"",
    "text": b"no image",
    "a TIFF of nothing": b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(40),
    "an icon of nothing": b"\x00\x00\x01\x00\x01\x00" + bytes(40),
    "a GIF of nothing": b"GIF89a" + bytes(7),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_cannot_be_read_is_told_with_its_name(name, tmp_path):
    (tmp_path / "x.png").write_bytes(IMAGES[name])
    read = lambda: Images([tmp_path / "x.png"], torch.zeros(1, 1), ["a"])  # noqa: E731
    message_of(read, ValueError, r"the image .*x\.png cannot be read: ")


def earlier(**change):
    run = {"case": "a", "who": "b", "level": "call", "passes": "fwd", "median": 1.0, "iqr": 0.1}
    content = {
        "format": FORMAT,
        "machine": {},
        "settings": {"keep_pages": False, "environment": {}},
        "runs": [run | {"busy": False}],
    }
    return {name: value for name, value in (content | change).items() if value is not None}


EARLIER = {
    "deep": ("[" * 100_000, "which is not JSON"),
    "no UTF-8": (b"\xff{}", "which is not JSON"),
    "a list": ("[]", "which is something else"),
    "no runs": (earlier(runs=None), "which is incomplete"),
    "runs of numbers": (earlier(runs=[1]), "which is incomplete"),
    "runs without times": (earlier(runs=[{"case": "a"}]), "which is incomplete"),
    "no machine": (earlier(machine=None), "which is incomplete"),
    "settings of a list": (earlier(settings=[]), "which is incomplete"),
    "settings with a gap": (earlier(settings={"keep_pages": True}), "which is incomplete"),
}


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_bench_is_looked_at_before_minutes_of_work(name, tmp_path):
    content, found = EARLIER[name]
    content = json.dumps(content) if isinstance(content, dict) else content
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "old.json").write_bytes(content)
    message_of(lambda: compare.load(tmp_path / "old.json"), ValueError, rf"old\.json, {found};")


def test_an_earlier_bench_that_is_whole_is_taken(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(earlier()))
    old = compare.load(tmp_path / "old.json")
    assert compare.changes(old, old)[-1].startswith("1 runs compared, 0 changed")


@pytest.fixture
def odd(tmp_path):
    """A folder whose name is no UTF-8."""
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.mkdir()
    return path


def test_names_that_are_no_utf_8_are_names_like_others(odd):
    x, y = np.eye(2), np.zeros((2, 1))
    np.savez(odd / "x.npz", X=x, Y=y)
    Image.new("L", (4, 4)).save(odd / "a.png")
    (odd / "list.txt").write_text("a.png 1\n")
    (odd / "x.csv").write_text("a,y\n1,0\n")
    assert len(read_table(odd / "x.npz")) == 2 and len(read_table(odd / "x.csv", 1)) == 1
    assert read_list(odd / "list.txt")[0][0].shape == (3, 4, 4)
    assert read_text(odd / "list.txt") == "a.png 1\n"
    trainer(output=odd / "run").fit(data(), 1, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(output=odd / "run").fit(data(), 1, 8, resume=True)


def test_the_command_line_writes_and_tells_such_names(odd, capsys):
    lines = [f"{number},{number % 2}" for number in range(60)]
    (odd / "x.csv").write_text("\n".join(["a,y", *lines]))
    options = ["--labels", "1", "--epochs", "1", "--width", "4", "--output", str(odd / "run")]
    assert cli.main(["train", "driving", "--data", str(odd), *options]) == 0
    printed = capsys.readouterr().out
    assert r"caf\udce9" in printed and (odd / "run" / "report.json").is_file()
    assert cli.main(["train", "driving", "--data", str(odd / "none"), *options]) == 2
    assert "holds another run" in capsys.readouterr().err
