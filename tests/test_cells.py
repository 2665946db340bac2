"""CSV files and lists as programs and people write them: read, or refused with line and remedy."""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from mtlfast.data import merged
from mtlfast.recipes import driving, slicelabels
from mtlfast.recipes.material.files import standardise
from mtlfast.train import Samples, read_folder, read_list, read_table

X, Y = [[1, 2], [3, 4]], [[0, 1], [1, 0]]
ROWS = "a,b,cat,dog\n1,2,0,1\n3,4,1,0\n"
READ = {
    "comma": ROWS,
    "semicolon": ROWS.replace(",", ";"),
    "tab": ROWS.replace(",", "\t"),
    "mark of bytes": "\ufeff" + ROWS,
    "Windows lines": ROWS.replace("\n", "\r\n"),
    "old lines": ROWS.replace("\n", "\r"),
    "blank lines": "\n" + ROWS.replace("\n", "\n\n  \n"),
    "no last line end": ROWS.rstrip(),
    "quotes": '"a";"b";"cat";"dog"\n"1";"2";"0";"1"\n"3";"4";"1";"0"\n',
    "spaces": ROWS.replace(",", ", "),
    "quoted separators": '"a;1;2;3","b","cat","dog"\n1,2,0,1\n3,4,1,0\n',
    "commas in names": '"a, in cm";"b, in kg";"cat, or no";dog\n1;2;0;1\n3;4;1;0\n',
    "commas in bare names": "a, in cm;b, in kg;cat, or no;dog\n1;2;0;1\n3;4;1;0\n",
    "a quoted line end": '"a\nlength",b,cat,dog\n1,2,0,1\n3,4,1,0\n',
}


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("name", READ)
def test_every_way_to_write_the_same_table_reads_the_same(name, tmp_path):
    table = read_table(write(tmp_path / "x.csv", READ[name]), 2)
    assert table.inputs.tolist() == X and table.labels.tolist() == Y
    assert table.names[1] == "dog" and table.names[0].startswith("cat")


COUNTED = {
    "from 0": (",a,b,cat,dog\n0,1,2,0,1\n1,3,4,1,0\n", "column 1 has no name and counts the rows"),
    "from 1": ('"";a;b;cat;dog\n"1";1;2;0;1\n"2";3;4;1;0\n', "column 1 has no name and counts"),
    "written twice": ("Unnamed: 0,a,b,cat,dog\n0,1,2,0,1\n1,3,4,1,0\n", "column 1 has no name"),
    "at the end": ("a,b,cat,dog,\n1,2,0,1,\n3,4,1,0,\n", "column 5 has no name and is empty"),
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_column_without_a_name_that_is_no_data_is_left_out_with_a_word(name, tmp_path):
    text, word = COUNTED[name]
    with pytest.warns(UserWarning, match=rf"x\.csv: {word}.*; it is left out\."):
        table = read_table(write(tmp_path / "x.csv", text), 2)
    assert table.inputs.tolist() == X and table.names == ["cat", "dog"]


REFUSED = {
    "short row": ("a,y\n1,0\n2\n", "line 3: must have 2 cells, as the header has; got 1."),
    "long row": ("a,y\n\n1,0\n2,1,1\n", "line 4: must have 2 cells, as the header has; got 3."),
    "long after a quoted line": ('a,y\n"1\n",0\n2,1,1\n', "line 4: must have 2 cells"),
    "open quote": ('a,y\n1,0\n"2,1\n3,4\n', "line 3: unexpected end of data."),
    "nameless": (",y\n5,0\n7,1\n", "line 1: every column must have a name; column 1 has none."),
    "nameless within": ("a,,y\n0,5,0\n1,7,1\n", "must have a name; column 2 has none."),
    "no header": ("1,2,0\n3,4,1\n", "line 1: must be a header of names; got numbers, 1, 2, 0."),
    "name twice": ("a,a,y\n1,2,0\n", "got 'a' twice, 1 rows and columns a, a, y."),
    "only a header": ("a,y\n", "got 0 rows and columns a, y."),
    "only a mark": ("\ufeff", "got 0 rows"),
    "decimal commas": ("a;y\n1,5;0\n", "row 1, column 'a': must be a number; got '1,5': write dec"),
    "text": ("a,y\n1,0\ntall,1\n", "row 2, column 'a': must be a number; got 'tall'."),
    "too large": ("a,y\n1e39,0\n", "row 1, column 'a': must be a number, at most 3.4e38, as"),
    "long integer": (f"a,y\n{10**45},0\n", "row 1, column 'a': must be a number, at most 3.4e38"),
    "endless": ("a,y\n1e999,0\n", "row 1, column 'a': must be a number; got '1e999'."),
    "large label": ("a,y\n1,-1e39\n", "row 1, column 'y': must be a number, .* at most 3.4e38"),
    "Python's number": ("a,y\n1_000,0\n", "row 1, column 'a': must be a number; got '1_000'."),
    "nan": ("a,y\nnan,0\n", "row 1, column 'a': must be a number; got 'nan'."),
    "Latin-1": ("a,y\n1,0\nh\xe9,1\n".encode("latin-1"), "line 3: .*seems to be Latin-1 or Win"),
    "UTF-16": (ROWS.encode("utf-16"), "line 1: must be text in UTF-8; it seems to be UTF-16: save"),
    "UTF-16 without mark": (ROWS.encode("utf-16-be"), "it seems to be UTF-16: save it as UTF-8."),
    "UTF-32": (ROWS.encode("utf-32"), "it seems to be UTF-32"),
    "zip": (b"PK\x03\x04" + bytes(60), "it seems to be a spreadsheet or a zip archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(60), "it seems to be packed by gzip"),
    "zeros": (bytes(100), "it seems to be no text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_is_not_clear_is_refused_with_its_place(name, tmp_path):
    text, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        read_table(write(tmp_path / "x.csv", text), ["y"])
    assert str(caught.value).startswith(f"{tmp_path / 'x.csv'}") and "\n" not in str(caught.value)


PICKED = [
    (["B, C"], ["B, C"]),
    ("B, C", ["B, C"]),
    ('A,"B, C"', ["A", "B, C"]),
    ('A, "B, C"', ["A", "B, C"]),
    ("A", ["A"]),
    (2, ["A", "B, C"]),
]


@pytest.mark.parametrize("labels, names", PICKED, ids=str)
def test_labels_are_picked_by_names_that_may_hold_commas(labels, names, tmp_path):
    file = write(tmp_path / "x.csv", 'x,A,"B, C"\n1,0,1\n2,1,0\n')
    assert read_table(file, labels).names == names


@pytest.mark.parametrize(
    "options, labels",
    [
        (["--labels", "2"], 2),
        (["--labels", "-2"], -2),
        (["--labels", "a,b"], "a,b"),
        (["--labels", "A", "--labels", "B, C"], ["A", "B, C"]),
        (["--labels", "A", "--labels", "B, C", "--labels", "2019"], ["A", "B, C", "2019"]),
        (["--labels", "2", "--labels", "A"], ["2", "A"]),
        ([], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("recipe", [driving, slicelabels])
def test_the_option_may_be_repeated(options, labels, recipe):
    parser = argparse.ArgumentParser()
    recipe.add_options(parser)
    assert parser.parse_args(options).labels == labels


def test_a_column_is_picked_once(tmp_path):
    file = write(tmp_path / "x.csv", ROWS)
    with pytest.raises(ValueError, match="a column must be named once; got cat, cat"):
        read_table(file, ["cat", "cat"])


@pytest.mark.parametrize("recipe", [driving, slicelabels])
def test_labels_that_are_no_classes_are_refused_with_what_to_do(recipe, tmp_path):
    lines = [f"{number},{number % 2},{0.37 if number == 4 else 1}" for number in range(30)]
    file = write(tmp_path / "x.csv", "\n".join(["a,y,price", *lines]))
    with pytest.raises(ValueError, match=r"got 0\.37 in row 5 of 'price': for regression write a"):
        recipe.build(data=file, labels=2, epochs=1, seed=0, weighting="fixed")


# Numbers that float32 does not tell apart

STAMPS = [1700000001, 1700000050, 1700000100, 1700000300]


def stamped(path, kind, stamps=STAMPS):
    labels = [number % 2 for number in range(len(stamps))]
    if kind == "npz":
        x = np.array([[stamp, row] for row, stamp in enumerate(stamps)])
        np.savez(path / "x.npz", X=x, Y=np.array(labels))
        return path / "x.npz"
    lines = [
        f"{stamp},{row},{y}" for row, (stamp, y) in enumerate(zip(stamps, labels, strict=True))
    ]
    return write(path / "x.csv", "\n".join(["time,row,y", *lines]))


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_time_stamps_that_become_one_number_are_named(kind, tmp_path):
    file = stamped(tmp_path, kind)
    column = "0" if kind == "npz" else "'time'"
    wanted = rf"{file.name}, column {column}: different numbers, as 1700000001(\.0)? and 1700000050"
    with pytest.warns(UserWarning, match=wanted):
        read_table(file, 1 if kind == "csv" else None)
    table = read_table(file, 1 if kind == "csv" else None, dtype=torch.float64)
    assert table.inputs[:, 0].tolist() == STAMPS and table.inputs.dtype == torch.float64


@pytest.mark.parametrize("kind", ["npz", "csv"])
@pytest.mark.parametrize("recipe", [driving, slicelabels])
def test_a_recipe_standardises_time_stamps_before_they_become_one(recipe, kind, tmp_path):
    stamps = [1700000000 + 7 * number for number in range(40)]
    file = stamped(tmp_path, kind, stamps)
    options = {} if kind == "npz" else {"labels": 1}
    built = recipe.build(data=file, epochs=1, seed=0, weighting="fixed", **options)
    inputs = torch.cat([part.inputs for part in (built.train, built.validation, built.test)])
    assert inputs.dtype == torch.float32 and inputs[:, 0].unique().numel() == 40
    expected = np.array(stamps, dtype=float)
    expected = (expected - expected[:32].mean()) / expected[:32].std(ddof=1)
    assert inputs[:, 0].numpy() == pytest.approx(expected, rel=1e-5)
    rows = torch.arange(40.0)
    if recipe is driving:  # which leaves alone what float32 holds
        assert torch.equal(inputs[:, 1], rows)


def test_numbers_that_become_one_even_so_are_named(tmp_path):
    stamps = [0, *(10**15 + number for number in range(39))]
    file = stamped(tmp_path, "csv", stamps)
    with pytest.warns(
        UserWarning, match=r"column 0: different numbers, as .* become one in float32"
    ):
        slicelabels.build(data=file, labels=1, epochs=1, seed=0, weighting="fixed")


def test_integers_of_too_many_digits_are_named(tmp_path):
    file = write(tmp_path / "x.csv", f"id,y\n{2**53},0\n{2**53 + 1},1\n")
    with pytest.warns(
        UserWarning, match="column 'id': different integers become one, as they have"
    ):
        read_table(file, 1, dtype=torch.float64)


def test_a_list_s_labels_are_looked_at_as_a_table_s(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    file = write(tmp_path / "x.txt", f"a.png 0 {2**53}\na.png 1 {2**53 + 1}\n")
    with pytest.warns(UserWarning, match=r"x\.txt, column 2: different integers become one, as"):
        read_list(file)


@pytest.mark.parametrize("kind", ["npz", "csv", "list", "folder"])
def test_labels_that_become_one_number_are_named_in_every_reader(kind, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    y = [1700000001.0, 1700000050.0]
    if kind == "npz":
        np.savez(tmp_path / "x.npz", X=np.eye(2), Y=np.array(y))
    write(tmp_path / "x.csv", f"x,y\n1,{y[0]}\n2,{y[1]}\n")
    write(tmp_path / "x.txt", f"a.png {y[0]}\na.png {y[1]}\n")
    write(tmp_path / "y.csv", f"file,y\na.png,{y[0]}\na.png,{y[1]}\n")
    readers = {
        "npz": lambda: read_table(tmp_path / "x.npz"),
        "csv": lambda: read_table(tmp_path / "x.csv", 1),
        "list": lambda: read_list(tmp_path / "x.txt"),
        "folder": lambda: read_folder(tmp_path, "y.csv"),
    }
    with pytest.warns(UserWarning, match="become one in float32; give the labels in another unit"):
        readers[kind]()


def test_noise_in_the_last_digits_is_not_told(tmp_path):
    draw = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.savez(tmp_path / "x.npz", X=draw.normal(size=(4000, 20)), Y=np.zeros((4000, 1)))
        read_table(tmp_path / "x.npz")
    assert merged(np.array([[1.0, 2**24, 0.1], [2.0, 2**24 + 1, 0.3]])).keys() == {1}
    assert merged(np.array([[2**53], [2**53 + 1]]), np.float64).keys() == {0}
    assert not merged(np.array([[np.nan], [1.5], [np.nan]]))


def test_a_constant_column_stays_constant_and_small_and_parts_share_one_scale():
    x = torch.tensor([[1.7e9 + 0.1, 1e-9], [1.7e9 + 0.1, 3e-9]], dtype=torch.float64)
    parts = {"train": Samples(x, {}), "validation": None, "test": Samples(x[:1], {})}
    standardise(parts, "x.csv")
    assert parts["train"].inputs[:, 0].abs().max() < 1e-5
    assert parts["train"].inputs[:, 1].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert torch.equal(parts["test"].inputs, parts["train"].inputs[:1])


# Lists and folders

LISTS = {
    "too large": ("a.png 1\na.png 1e39\n", "line 2, label 1: must be a number, or '[?]', at most"),
    "endless": ("a.png inf\n", "line 1, label 1: must be a number, or '[?]'; got 'inf'."),
    "Python's number": ("a.png 1_0\n", "line 1, label 1: must be a number"),
    "Latin-1": ("a.png 1\n\xe9.png 0\n".encode("latin-1"), "line 2: .*seems to be Latin-1"),
    "UTF-16": ("a.png 1\n".encode("utf-16"), "it seems to be UTF-16"),
    "zero byte": ("a.png 1\n\0.png 0\n", "it seems to be no text"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_is_not_clear_is_refused_with_the_line(name, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    text, message = LISTS[name]
    with pytest.raises(ValueError, match=message) as caught:
        read_list(write(tmp_path / "x.txt", text))
    assert str(caught.value).startswith(f"{tmp_path / 'x.txt'}, line ")


def test_a_folder_s_table_may_leave_the_column_of_files_without_a_name(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    data = read_folder(tmp_path, write(tmp_path / "x.csv", ";old\na.png;1\na.png;?\n"))
    assert data.names == ["old"] and data.labels[0].item() == 1
