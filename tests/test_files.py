"""Ordinary files become data sets, and a bad one is told in one line."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import real_data
import torch
from PIL import Image

from mtlfast.recipes.material.parsing import Columns
from mtlfast.train import Images, Table, read_folder, read_list, read_table

CSV = "height,width,split,cat,dog\n1,2,train,1,?\n3, 4,train,,0\n5,6,test,0,1 \n"
NAN = float("nan")


def write(path, text):
    path.write_text(text)
    return path


def same(tensor, values):
    expected = torch.tensor(values, dtype=tensor.dtype)
    return torch.equal(tensor.nan_to_num(-9), expected.nan_to_num(-9))


@pytest.fixture
def images(tmp_path):
    """A folder of three colour images, 6 high and 4 wide, of one grey each."""
    for number in range(3):
        pixels = np.full((6, 4, 3), 51 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("labels", [["cat", "dog"], 2])
def test_a_csv_has_missing_labels_where_it_says_so_or_is_blank(tmp_path, labels):
    table = read_table(write(tmp_path / "x.csv", CSV), labels)
    assert same(table.inputs, [[1, 2], [3, 4], [5, 6]]) and table.names == ["cat", "dog"]
    assert same(table.targets["labels"], [[1, NAN], [NAN, 0], [0, 1]])
    assert table.split == ["train", "train", "test"]


def test_label_columns_may_come_first_and_inputs_be_chosen(tmp_path):
    file = write(tmp_path / "x.csv", "cat,dog,name,size\n1,0,Tom,2\n?,1,Rex,3\n")
    table = read_table(tmp_path, -2, inputs=["size"])
    assert table.names == ["cat", "dog"] and same(table.inputs, [[2], [3]])
    assert read_table(file, ["dog"], inputs=[]).inputs.shape == (2, 0)


def test_sliced_labels_are_a_target_for_each_task(tmp_path):
    table = read_table(write(tmp_path / "x.csv", CSV), 2, sliced=True)
    assert same(table[1][1]["cat"], NAN) and same(table.targets["dog"], [NAN, 0, 1])


@pytest.mark.parametrize("names", [{}, {"task_names": ["a", "b"]}])
def test_an_npz_may_hold_packed_bits_and_negative_labels(tmp_path, names):
    bits = np.random.default_rng(0).integers(0, 2, (5, 16), dtype=np.uint8)
    labels = np.array([[1, -1]] * 5, dtype=np.int8)
    np.savez(tmp_path / "x.npz", fp_packed=np.packbits(bits, axis=1), labels=labels, **names)
    table = read_table(tmp_path)
    assert same(table.inputs, bits.tolist()) and table.targets["labels"].dtype == torch.int8
    assert table.names == names.get("task_names", ["label1", "label2"]) and table.split is None


def test_an_npz_may_hold_one_column_of_floating_labels_and_a_split(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.eye(3), Y=np.array([0.5, NAN, 1]), split=[0, 0, 1])
    table = read_table(tmp_path / "x.npz")
    assert same(table.targets["labels"], [[0.5], [NAN], [1]]) and table.split == ["0", "0", "1"]


def test_the_sparse_table_is_87_percent_missing():
    table = read_table(real_data.folder("sparse_multitask"), 9, inputs=[])
    assert table.labels.shape == (600, 9)
    assert table.labels.isnan().float().mean() == pytest.approx(0.87, abs=0.005)


@pytest.mark.parametrize("split", ["index", "random"])
@pytest.mark.parametrize("weight_data", [False, True])
def test_the_parts_of_a_table_are_disjoint_and_whole(split, weight_data):
    table = Table(torch.arange(100.0).unsqueeze(1), torch.zeros(100, 1), ["a"])
    parts = table.parts(split, 1, weight_data=weight_data)
    sizes = [None if part is None else len(part) for part in parts.values()]
    assert sizes == ([72, 8, 10, 10] if weight_data else [80, None, 10, 10])
    rows = torch.cat([part.inputs.flatten() for part in parts.values() if part is not None])
    assert same(rows.sort().values, list(range(100)))
    assert (rows[-10:].tolist() == list(range(90, 100))) == (split == "index")
    again = table.parts(split, 2)["test"]
    assert torch.equal(again.inputs, parts["test"].inputs) == (split == "index")


SPLIT = [
    ([0, 1, 0, 0], [[0, 2, 3], None, [1]]),
    ([0, 1, 2, 0], [[0, 3], [1], [2]]),
    (["train", "valid", "test", "Train"], [[0, 3], [1], [2]]),
]


@pytest.mark.parametrize("given, expected", SPLIT)
def test_a_given_split_is_taken_by_number_or_name(given, expected):
    parts = Table(torch.arange(4.0), torch.zeros(4, 1), ["a"], given).parts("given")
    found = [parts[name] for name in ("train", "validation", "test")]
    assert [part and part.inputs.tolist() for part in found] == expected


def test_a_list_gives_images_and_a_label_vector(images):
    file = write(images / "list.txt", "0.png 1 0 ?\n\n2.png 0 1 1\n")
    data = read_list(file)
    image, targets = data[1]
    assert len(data) == 2 and data.names == ["label1", "label2", "label3"]
    assert image.shape == (3, 6, 4) and torch.allclose(image, torch.tensor(0.4))
    assert same(data[0][1]["labels"], [1, 0, NAN]) and same(targets["labels"], [0, 1, 1])


def test_images_come_grey_and_of_a_size_from_another_root(images, tmp_path_factory):
    file = write(tmp_path_factory.mktemp("lists") / "list.txt", "1.png 3\n")
    data = read_list(file, images, names=["kind"], grey=True, size=(8, 5), sliced=True)
    image, targets = data[0]
    assert image.shape == (1, 8, 5) and torch.allclose(image, torch.tensor(0.2))
    assert targets["kind"] == 3


def test_a_folder_of_images_has_its_labels_in_a_table(images):
    write(images / "labels.csv", "file,smiling,male\n1.png,1,?\n0.png,0,1\n")
    data = read_folder(images, "labels.csv")
    assert [path.name for path in data.paths] == ["1.png", "0.png"]
    assert same(data.labels, [[1, NAN], [0, 1]]) and data.names == ["smiling", "male"]
    assert read_folder(images, images / "labels.csv", ["male"]).names == ["male"]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((2, 2), 32768, dtype=np.uint16)).save(tmp_path / "x.png")
    image, _ = Images([tmp_path / "x.png"], torch.zeros(1, 1), ["a"], grey=True)[0]
    assert torch.allclose(image, torch.tensor(128 / 255))


BAD_TABLES = [
    ("a,y\n1,0\n2,yes\n", 1, "row 2, column 'y': must be a number, '[?]' or blank; got 'yes'."),
    ("a,y\n1,0\n?,1\n", 1, "row 2, column 'a': must be a number; got '?'."),
    ("a,y\n1,inf\n", 1, "row 1, column 'y': must be a number, '[?]' or blank; got 'inf'."),
    ("a,y\n1,0,3\n", 1, "line 2: must have 2 cells, as the header has; got 3."),
    ("a,a\n1,0\n", 1, "must have a header of different names, and rows; got 'a' twice, 1 rows"),
    ("a,y\n", 1, "must have a header of different names, and rows; got 0 rows"),
    ("", 1, "must have a header of different names, and rows; got 0 rows and columns."),
    ("a,y\n1,0\n", ["z"], "has no column 'z'; it has a, y."),
    ("a,y\n1,0\n", 3, "has 2 columns to choose from; got 3."),
    ("a,y\n1,0\n", None, "labels must name the label columns of .*x.csv; got None."),
]


@pytest.mark.parametrize("text, labels, message", BAD_TABLES, ids=[b[2] for b in BAD_TABLES])
def test_a_bad_csv_is_refused_with_the_place(tmp_path, text, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_table(write(tmp_path / "x.csv", text), labels)
    assert "x.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("inputs", [["y"], ["a", "y"]])
def test_inputs_are_other_columns_than_labels(inputs, tmp_path):
    file = write(tmp_path / "x.csv", "a,b,y\n1,2,0\n")
    with pytest.raises(ValueError, match=r"x.csv: inputs must not name label columns; got 'y'.$"):
        read_table(file, "y", inputs=inputs)


def test_inputs_are_chosen_in_a_csv_file_alone(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.ones((2, 3)), Y=np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"x.npz: inputs must be None, .* CSV file; got list.$"):
        read_table(tmp_path / "x.npz", inputs=["a"])


@pytest.mark.parametrize(
    "given, labels",
    [
        (["3"], 3),
        (["-2"], -2),
        (["a"], "a"),
        (["a,b"], "a,b"),
        (["a", "b, c"], ["a", "b, c"]),
        (["a", "3"], ["a", "3"]),
        (["3", "a"], ["3", "a"]),
        (["3", "4"], ["3", "4"]),
    ],
)
def test_the_option_of_label_columns_forgets_none(given, labels):
    parser = argparse.ArgumentParser()
    parser.add_argument("--labels", action=Columns)
    options = parser.parse_args([word for name in given for word in (f"--labels={name}",)])
    assert options.labels == labels


BAD_LISTS = [
    ("0.png 1 0\n1.png 1\n", "line 2: must have 2 labels; got 1."),
    ("0.png 1 0\n1.png 1 x\n", "line 2, label 2: must be a number, or '[?]'; got 'x'."),
    ("0.png 1\n7.png 1\n", "line 2: there is no image .*7.png."),
    ("0.png\n", "must hold lines 'path l1 l2 ... ln'; its first has no label."),
    ("", "must hold lines"),
]


@pytest.mark.parametrize("text, message", BAD_LISTS, ids=[b[1] for b in BAD_LISTS])
def test_a_bad_list_is_refused_with_the_line(images, text, message):
    with pytest.raises(ValueError, match=message):
        read_list(write(images / "list.txt", text))


def test_a_path_without_a_table_is_refused_with_what_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"an \.npz or \.csv file.*nowhere, which does not exist"):
        read_table(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="which holds no file"):
        read_table(tmp_path)
    write(tmp_path / "notes.txt", "")
    with pytest.raises(ValueError, match=r"which holds notes\.txt"):
        read_table(tmp_path)
    np.savez(tmp_path / "x.npz", images=np.zeros(2))
    with pytest.raises(ValueError, match="must hold X or fp_packed, and Y or labels; it has image"):
        read_table(tmp_path)
    np.savez(tmp_path / "x.npz", X=np.eye(2), Y=np.eye(2), task_names=["a"])
    with pytest.raises(ValueError, match="must name 2 tasks; it names 1"):
        read_table(tmp_path)
    np.savez(tmp_path / "x.npz", X=np.eye(2), Y=np.eye(2), split=[0])
    with pytest.raises(ValueError, match="split must have 2 rows; got 1"):
        read_table(tmp_path)
    for content in ("no archive", ""):
        write(tmp_path / "x.npz", content)
        with pytest.raises(ValueError, match=r"x\.npz cannot be read: it must be an npz file"):
            read_table(tmp_path)
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.eye(2))  # one array, no archive
    with pytest.raises(ValueError, match=r"x\.npz cannot be read: it must be an npz file"):
        read_table(tmp_path)
    with pytest.raises(ValueError, match="there is none at"):
        read_list(tmp_path / "list.txt")


def test_an_image_that_cannot_be_read_is_named(images):
    write(images / "1.png", "no image")
    data = Images([images / "0.png", images / "1.png"], torch.zeros(2, 1), ["a"])
    with pytest.raises(ValueError, match=r"the image .*1\.png cannot be read"):
        data[1]


def test_images_of_several_sizes_need_one_size(images):
    Image.new("RGB", (9, 9)).save(images / "1.png")
    paths, labels = [images / "0.png", images / "1.png"], torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"all be \(6, 4\), or be given a size; got \(9, 9\) in"):
        Images(paths, labels, ["a"])[1]
    assert Images(paths, labels, ["a"], size=7)[1][0].shape == (3, 7, 7)


@pytest.mark.parametrize(
    "given, message",
    [
        (None, "split 'given' needs a split in the table"),
        ([0, 1, 7], "must hold 0, 1 and 2 or train, validation and test; got '7'"),
        ([0, 0, 0], "must have train and test; got train"),
    ],
)
def test_a_bad_split_is_refused(given, message):
    table = Table(torch.zeros(3, 2), torch.zeros(3, 1), ["a"], given)
    with pytest.raises(ValueError, match=message):
        table.parts("given")
    with pytest.raises(ValueError, match="split must be one of index, random, given; got 'scaf"):
        table.parts("scaffold")
