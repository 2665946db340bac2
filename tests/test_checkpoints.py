"""A checkpoint that cannot be gone on from is passed over, whatever stands in its place."""

from __future__ import annotations

import json
import os
import random
import struct

import pytest
import safetensors.torch
import torch
from messages import message_of
from training import data, full_run, same, state, trainer

from mtlfast.train import checkpoint, randomness

pytestmark = pytest.mark.usefixtures("no_pictures")

RUN = {"weight_data": data(20, seed=1)}
# Places in the state of a checkpoint, and what an impostor has there.
GONE = object()
LAYOUTS = {
    "no model": (["model"], GONE),
    "no step": (["step"], GONE),
    "no identity": (["identity"], GONE),
    "no own": (["own"], GONE),
    "no random": (["own", 0, "random"], GONE),
    "no torch generator": (["own", 0, "random", "torch"], GONE),
    "a tensor less": (["model", "heads.kind.weight"], GONE),
    "a tensor more": (["model", "heads.more"], torch.ones(2)),
    "a shape": (["model", "heads.kind.weight"], torch.ones(2, 8)),
    "a dtype": (["model", "heads.kind.weight"], torch.ones(3, 8, dtype=torch.float64)),
    "a number for a tensor": (["model", "heads.kind.weight"], 3),
    "a list for a mapping": (["model"], [1, 2]),
    "step in words": (["step"], "five"),
    "step below 0": (["step"], -5),
    "step of a half": (["step"], 2.5),
    "seconds in words": (["seconds"], "long"),
    "history in words": (["history"], "long"),
    "history of numbers": (["history"], [1, 2]),
    "history of strangers": (["history", 0, "task"], "stranger"),
    "history without losses": (["history", 0, "train_loss"], GONE),
    "identity in words": (["identity"], "mine"),
    "rules": (["rules"], {"waited": 1}),
    "weighting": (["weighting"], {}),
    "running sums": (["own", 0, "running"], torch.zeros(2, 7, dtype=torch.float64)),
    "generator": (["own", 0, "random", "torch"], torch.zeros(3, dtype=torch.uint8)),
    "generator of Python": (["own", 0, "random", "python"], (3, (1, 2), None)),
    "no processes": (["own"], []),
    "scheduler": (["scheduler", "last_epoch"], "late"),
    "optimizer in words": (["optimizer"], "adam"),
    "groups": (["optimizer", "param_groups"], []),
    "memory of a shape": (["optimizer", "state", 0, "exp_avg"], torch.ones(7, 7)),
    "memory with a gap": (["optimizer", "state", 0, "exp_avg"], GONE),
    "memory in words": (["optimizer", "state", 0, "exp_avg"], "much"),
}


def change(held, path, value):
    *places, last = path
    for place in places:
        held = held[place]
    if value is GONE:
        del held[last]
    else:
        held[last] = value


def foreign(state_text, sha256=None, tensors=None):
    """A file of safetensors with such a state, and the checksum that belongs to it."""
    tensors = {} if tensors is None else tensors
    sha256 = checkpoint._digest(state_text, tensors) if sha256 is None else sha256
    return safetensors.torch.save(tensors, {"state": state_text, "sha256": sha256})


def header(text):
    return struct.pack("<Q", len(text)) + text.encode()


CONTENTS = {
    "empty": b"",
    "short": b"1234",
    "text": b"a checkpoint, honestly\n" * 10,
    "JSON": json.dumps({"step": 5}).encode(),
    "a header beyond the end": struct.pack("<Q", 2**62) + b"{}",
    "a header of nothing": struct.pack("<Q", 0),
    "a deep header": header("[" * 100_000),
    "a header of a list": header("[]"),
    "other tensors": safetensors.torch.save({"a": torch.ones(2)}),
    "other metadata": safetensors.torch.save({"a": torch.ones(2)}, {"format": "pt"}),
    "deep JSON": foreign("[" * 100_000),
    "deep mappings": foreign('{"dict": [["a", ' * 100_000),
    "deep state": foreign('{"list": [' * 900 + "]}" * 900),
    "no JSON": foreign("{"),
    "another kind": foreign('{"set": [1]}'),
    "two kinds": foreign('{"dict": [], "list": []}'),
    "no pairs": foreign('{"dict": [1, 2]}'),
    "keys that are lists": foreign('{"dict": [[["list", []], 1]]}'),
    "a tensor that is not there": foreign('{"dict": [["model", {"tensor": "x"}]]}'),
    "a tensor named by a list": foreign('{"dict": [["model", {"tensor": []}]]}'),
    "a number": foreign("5"),
    "a huge number": foreign("1" * 10_000),
    "a list": foreign('{"list": []}'),
    "an empty state": foreign('{"dict": []}'),
    "a checksum of another": foreign('{"dict": []}', "0" * 64),
    "a checksum of words": foreign('{"dict": []}', "é"),
}


def a_pipe(path):
    os.mkfifo(path)


def a_folder(path):
    path.mkdir()
    (path / "file").touch()


def a_link_to_nothing(path):
    path.symlink_to(path.with_name("nothing"))


def a_link_to_itself(path):
    path.symlink_to(path)


def a_link_to_a_device(path):
    path.symlink_to("/dev/zero")


PLACES = [a_pipe, a_folder, a_link_to_nothing, a_link_to_itself, a_link_to_a_device]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three epochs with the checkpoints of the last two: its folder, model, contents."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run = full_run(folder)
    run.fit(data(), 3, 8, **RUN)
    older, newer = sorted((folder / "checkpoints").iterdir())
    return state(run.model), older, newer


@pytest.fixture
def place(whole, tmp_path):
    """A run with the older of the two checkpoints, and the path of the newer, free."""
    _, older, newer = whole
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / older.name).write_bytes(older.read_bytes())
    return tmp_path / "checkpoints" / newer.name


def goes_on(place, whole):
    """Checks that a run is resumed, from the older checkpoint, and ends as it should."""
    run = full_run(place.parents[1])
    with pytest.warns(UserWarning) as told:
        run.fit(data(), 3, 8, **RUN, resume=True)
    (text,) = {str(warning.message) for warning in told}
    assert text.startswith(f"{place} is not a whole checkpoint (") and "\n" not in text
    assert text.endswith("). The run goes on from the one before it.") and len(text) < 600
    assert same(whole[0], state(run.model)) and checkpoint.load(place)["step"] == 15
    assert not place.is_symlink() and len(list(place.parent.glob("step-*"))) in (2, 3)
    return text


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_of_another_layout_is_passed_over(name, place, whole):
    held = checkpoint.load(whole[2])
    change(held, *LAYOUTS[name])
    checkpoint.save(place, held)
    goes_on(place, whole)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_no_checkpoint_is_passed_over(name, place, whole):
    place.write_bytes(CONTENTS[name])
    goes_on(place, whole)


@pytest.mark.parametrize("make", PLACES)
def test_what_is_no_file_in_the_place_of_a_checkpoint_is_passed_over(make, place, whole):
    make(place)
    goes_on(place, whole)
    if make is a_folder:
        (aside,) = place.parent.glob("*.aside-*")
        assert (aside / "file").exists()


def test_a_checkpoint_with_any_bits_changed_is_never_taken_for_whole(whole, tmp_path):
    content, draw = whole[2].read_bytes(), random.Random(0)
    path, before = tmp_path / "x.safetensors", repr(checkpoint.load(whole[2]))
    for _ in range(300):
        bad = bytearray(content)
        # Half of them in the header, where most of the structure is.
        end = len(bad) if draw.random() < 0.5 else 4000
        for _ in range(draw.choice([1, 1, 3, 40])):
            bad[draw.randrange(end)] ^= 1 << draw.randrange(8)
        if draw.random() < 0.2:
            del bad[draw.randrange(len(bad)) :]
        path.write_bytes(bad)
        try:
            state = checkpoint.load(path)
        except checkpoint.Damaged as error:
            assert str(error).startswith(f"{path} is not a whole checkpoint (")
            assert "\n" not in str(error)
        else:  # the name of a field that nobody reads
            assert repr(state) == before


def test_without_a_whole_checkpoint_a_run_says_so_in_one_line(whole, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    a_pipe(tmp_path / "checkpoints" / whole[2].name)
    with pytest.warns(UserWarning, match="it is no file"):
        message_of(
            lambda: full_run(tmp_path).fit(data(), 3, 8, **RUN, resume=True),
            ValueError,
            "checkpoints must hold a whole checkpoint; all 1 are damaged.",
        )


def test_the_best_model_is_looked_at_when_a_run_goes_on_and_not_at_its_end(tmp_path):
    options = {**RUN, "validation": data(9, seed=2)}
    full_run(tmp_path, best="loss").fit(data(), 2, 8, **options)
    (tmp_path / "checkpoints" / "best.safetensors").write_bytes(b"")
    run = full_run(tmp_path, best="loss")
    run._epoch = lambda *_: pytest.fail("work before the check")
    wanted = r"best\.safetensors is not a whole checkpoint"
    refused = checkpoint.Damaged
    message_of(lambda: run.fit(data(), 3, 8, **options, resume=True), refused, wanted)


def test_a_run_on_the_cpu_goes_on_on_a_device_with_a_generator_of_its_own(tmp_path, monkeypatch):
    full_run(tmp_path).fit(data(), 2, 8, **RUN)
    usual = randomness.state
    more = {"device": torch.zeros(16, dtype=torch.uint8)}
    monkeypatch.setattr(randomness, "state", lambda device: usual(device) | more)
    again = full_run(tmp_path)
    assert len(again.fit(data(), 3, 8, **RUN, resume=True)) == 9 and again.run.step == 15


def test_the_generators_of_the_host_come_back_on_another_device(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda device: pytest.fail("it has none"))
    before = randomness.state(torch.device("cpu"))
    drawn = torch.rand(3), random.random()
    randomness.restore(before, torch.device("cuda"))
    again = torch.rand(3), random.random()
    assert torch.equal(drawn[0], again[0]) and drawn[1] == again[1]


def test_pruning_never_removes_what_was_just_written(tmp_path):
    names = ["step-000000005", "step-000000010", "step-000000015", "step-000000020", "step-x"]
    for name in names:
        (tmp_path / f"{name}.safetensors").touch()
    checkpoint.prune(tmp_path, 1, 10)
    assert sorted(path.stem for path in tmp_path.iterdir()) == names[1:]
    assert checkpoint.newest(tmp_path).stem == "step-000000020"


@pytest.mark.parametrize("optimizer", ["Adafactor", "Adam", "RMSprop", "SGD"])
def test_runs_with_any_of_torchs_optimizers_go_on(tmp_path, optimizer):
    made = getattr(torch.optim, optimizer)
    trainer(optimizer=made, output=tmp_path).fit(data(), 1, 8)
    again = trainer(optimizer=made, output=tmp_path)
    again.fit(data(), 2, 8, resume=True)
    whole = trainer(optimizer=made)
    whole.fit(data(), 2, 8)
    assert same(state(again.model), state(whole.model))
