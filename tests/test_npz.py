"""An npz file of any kind is loaded, or refused in one line that names it, before it is read."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch

from mtlfast.data import npz as reading
from mtlfast.recipes.material.files import arrays
from mtlfast.train import read_table

X, Y = np.arange(6.0).reshape(3, 2), np.array([[1, 0], [0, -1], [1, 1]], dtype=np.int8)
NAMES = np.array(["cat", "dog"])


def save(path, **change):
    given = {"X": X, "Y": Y, "task_names": NAMES} | change
    np.savez(path, **{name: value for name, value in given.items() if value is not None})
    return path


def same(tensor, values):
    return tensor.tolist() == np.asarray(values).tolist()


LOADED = {
    "big-endian floats": {"X": X.astype(">f8")},
    "big-endian integers": {"X": X.astype(">i4"), "Y": Y.astype(">i2")},
    "big-endian float labels": {"Y": Y.astype(">f4")},
    "unsigned labels": {"Y": np.abs(Y).astype(np.uint32)},
    "wide unsigned labels": {"Y": np.abs(Y).astype(np.uint64)},
    "half precision": {"X": X.astype(np.float16)},
    "long double": {"X": X.astype(np.longdouble)},
    "bool": {"X": X > 2, "Y": Y > 0},
    "Fortran order": {"X": np.asfortranarray(X), "Y": np.asfortranarray(Y)},
    "names in bytes": {"task_names": np.array([b"cat", b"dog"])},
    "names in wide text": {"task_names": NAMES.astype(">U9")},
    "split in bytes": {"split": np.array([b"train", b"train", b"test"])},
    "split of floats": {"split": np.array([0.0, 0.0, 2.0])},
    "objects that nobody asks for": {"notes": np.array([{}], dtype=object)},
}


@pytest.mark.parametrize("name", LOADED)
def test_what_numpy_may_hold_is_loaded_with_its_values(name, tmp_path):
    table = read_table(save(tmp_path / "x.npz", **LOADED[name]))
    given = {"X": X, "Y": Y} | LOADED[name]
    assert table.inputs.dtype == torch.float32 and same(table.inputs, given["X"].astype(float))
    assert same(table.labels.double(), given["Y"].astype(float)) and table.names == ["cat", "dog"]
    assert table.parts("given")["test"].inputs.shape == (1, 2) if "split" in given else True
    assert table.labels.float().sum() == given["Y"].astype(float).sum()


def test_one_column_needs_no_second_dimension(tmp_path):
    file = save(tmp_path / "x.npz", X=X[:, 0], Y=Y[:, 0], task_names=np.array("cat"))
    table = read_table(file)
    assert table.inputs.shape == (3, 1) and table.names == ["cat"]
    assert read_table(save(file, Y=Y[:, :1], task_names=np.array(b"cat"))).names == ["cat"]


def holed(value, at=(1, 1)):
    x = X.copy()
    x[at] = value
    return x


REFUSED = {
    "complex": ({"X": X + 1j}, "X must hold real numbers; got complex128."),
    "dates": ({"X": X.astype("M8[s]")}, r"X must hold real numbers; got datetime64\[s\]."),
    "text": ({"X": X.astype(str)}, "X must hold real numbers; got <U"),
    "records": ({"X": np.zeros(3, dtype=[("a", "f4")])}, "X must hold real numbers; got "),
    "objects": ({"X": X.astype(object)}, "X holds Python objects: save numbers"),
    "NaN": ({"X": holed(np.nan)}, r"X\[1, 1\] must be a number that float32 holds; got nan."),
    "inf": ({"X": holed(-np.inf)}, r"X\[1, 1\] must be a number that float32 holds; got -inf."),
    "too large": ({"X": holed(1e39)}, r"X\[1, 1\] must be a number .*; got 1e\+39."),
    "large label": (
        {"Y": holed(1e39)},
        r"Y\[1, 1\] \('dog'\) must be .* or NaN where missing; got",
    ),
    "inf label": ({"Y": holed(np.inf)}, r"Y\[1, 1\] \('dog'\) must be a number"),
    "huge class": (
        {"Y": Y.astype(np.uint64)},
        r"Y must hold integers below 2\*\*63; got 1844674407",
    ),
    "names twice": ({"task_names": np.array(["a", "a"])}, "name tasks differently; got 'a'"),
    "names of nothing": ({"task_names": np.array(["a", ""])}, "name tasks differently; got ''"),
    "names too few": ({"task_names": np.array("a")}, "must name 2 tasks; it names 1."),
    "names in a table": ({"task_names": np.array([["a", "b"]])}, "must be a row of names"),
    "names in Latin-1": ({"task_names": np.array([b"a", b"\xe9"])}, "must be text in UTF-8"),
    "names as objects": ({"task_names": NAMES.astype(object)}, "task_names holds Python objects"),
    "no rows": ({"X": X[:0], "Y": Y[:0]}, "must hold at least one row; got none."),
    "no tasks": ({"Y": Y[:, :0], "task_names": None}, "must name 0 tasks; it names 0."),
    "one number": ({"X": np.array(1.0)}, r"X must have rows, and Y .*; got \(\) and"),
    "cube of labels": ({"Y": Y[:, :, None]}, r"Y one or two dimensions; got .*\(3, 2, 1\)"),
    "fewer labels": ({"Y": Y[:2]}, "as many rows of X as of Y; got 3 and 2."),
    "short split": ({"split": [0, 1]}, "split must have 3 rows; got 2."),
    "bits as floats": ({"X": None, "fp_packed": X}, "fp_packed must be uint8 of two dimensions"),
    "no X": ({"X": None}, "must hold X or fp_packed, and Y or labels; it has Y, task_names."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_is_refused_with_the_file_and_the_cell(name, tmp_path):
    change, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        read_table(save(tmp_path / "x.npz", **change))
    assert str(tmp_path / "x.npz") in str(caught.value) and "\n" not in str(caught.value)


def member(shape="(3, 2)", descr="'<f8'", content=b"\0" * 48, version=b"\x01\x00"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


def archive(path, x, kind=zipfile.ZIP_DEFLATED):
    np.savez(path, Y=Y)
    with zipfile.ZipFile(path, "a", kind) as file:
        file.writestr("X.npy", x)
    return path.read_bytes()


def patched(content, offset, value, mark=b"PK\x01\x02"):
    """Changes a field of the last header of a kind: of the entry X."""
    at = content.rindex(mark) + offset
    return content[:at] + value + content[at + len(value) :]


def plain(path):
    return archive(path, member())


def one_array(path):
    stream = io.BytesIO()
    np.save(stream, X)
    return stream.getvalue()


BYTES = {
    "4 PiB": (lambda p: archive(p, member(f"({2**49},)")), "X claims"),
    "overflow": (lambda p: archive(p, member(f"({2**40}, {2**40})")), "X claims"),
    "a negative shape": (lambda p: archive(p, member("(-3, -2)")), "X claims"),
    "less than claimed": (lambda p: archive(p, member(content=b"\0" * 40)), "and holds 40 bytes"),
    "more than claimed": (lambda p: archive(p, member(content=b"\0" * 56)), "and holds 56 bytes"),
    "no header": (lambda p: archive(p, b"text"), "magic string"),
    "another version": (lambda p: archive(p, member(version=b"\x09\x00")), "npy version 9.0"),
    "a deep header": (
        lambda p: archive(p, member("(" * 5000)),
        "cannot be read",
    ),
    "a type of nothing": (lambda p: archive(p, member(descr="'<q9'")), "descr"),
    "objects": (lambda p: archive(p, member(descr="'|O'")), "X holds Python objects"),
    "unknown compression": (lambda p: patched(plain(p), 10, b"\x63\x00"), "compression method"),
    "a password": (lambda p: patched(plain(p), 8, b"\x01\x00"), "encrypted"),
    "a wrong checksum": (lambda p: patched(plain(p), 16, b"abcd"), "CRC-32"),
    "a wrong size": (lambda p: patched(plain(p), 24, struct.pack("<I", 2**31)), "times its size"),
    "an offset beyond": (lambda p: patched(plain(p), 42, struct.pack("<I", 2**30)), "Truncated"),
    "cut": (lambda p: plain(p)[:-60], "not a zip file"),
    "cut in half": (lambda p: plain(p)[:200], "not a zip file"),
    "empty": (lambda p: b"", "not a zip file"),
    "text": (lambda p: b"a,y\n1,0\n", "not a zip file"),
    "one array": (one_array, "a single array, an npy file"),
}


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_lies_is_refused_with_its_name_and_why(name, tmp_path):
    make, message = BYTES[name]
    (tmp_path / "x.npz").write_bytes(make(tmp_path / "x.npz"))
    with pytest.raises(ValueError, match=message) as caught:
        read_table(tmp_path / "x.npz")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'x.npz'} cannot be read: it must be an npz file")
    assert "\n" not in line and len(line) < 500


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain(tmp_path / "x.npz")
        with zipfile.ZipFile(tmp_path / "x.npz", "a") as file:
            file.writestr("X.npy", member())
    with pytest.raises(ValueError, match="two arrays of one name"):
        read_table(tmp_path / "x.npz")


def test_a_bomb_is_refused_before_it_is_unpacked_and_what_is_not_asked_for_is_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(reading, "LARGE", 1 << 20)
    np.savez_compressed(tmp_path / "x.npz", X=np.zeros((2_000_000, 1)), Y=Y)
    monkeypatch.setattr(reading, "_read", lambda *_: pytest.fail("read before the check"))
    with pytest.raises(
        ValueError, match=r"x\.npz cannot be read.* it unpacks to 0\.0 GiB, .* times"
    ):
        read_table(tmp_path / "x.npz")
    monkeypatch.undo()
    np.savez_compressed(tmp_path / "x.npz", X=X, Y=Y, task_names=NAMES, more=np.zeros(1 << 20))
    monkeypatch.setattr(reading, "LARGE", 1 << 10)
    assert len(read_table(tmp_path / "x.npz")) == 3


def test_more_than_the_machine_has_is_refused():
    reading._check_size(10, 100)
    with pytest.raises(ValueError, match="and this machine has"):
        reading._check_size(2**50, 2**52)


def test_a_recipe_s_arrays_are_checked_alike(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4)), kind=np.array([0, 1]))
    (found,) = arrays(tmp_path, ["a.npz"], ["images", "kind"])
    assert found["kind"].tolist() == [0, 1]
    for change, message in (
        ({"images": np.array(1.0)}, "as many rows"),
        ({"images": np.zeros((2, 4)) + np.inf}, r"images\[0, 0\] must be a number"),
        ({"images": np.zeros((2, 4), dtype=complex)}, "images must hold real numbers"),
        ({"images": np.zeros((2, 4), dtype=object)}, "holds Python objects"),
    ):
        np.savez(tmp_path / "a.npz", **{"kind": np.array([0, 1])} | change)
        with pytest.raises(ValueError, match=message) as caught:
            arrays(tmp_path, ["a.npz"], ["images", "kind"])
        assert "a.npz" in str(caught.value)
