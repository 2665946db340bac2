"""Properties of the recipes that learn from faces: tcdcn, deepid2 and attributes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import message_of
from training import same, state, sums

import mtlfast
from mtlfast.cli import main
from mtlfast.recipes import RECIPES, attributes, deepid2, recipe, tcdcn
from mtlfast.recipes.material.pairs import pair_auc, pairs, spread
from mtlfast.train import Trainer

DATA = Path(os.environ.get("MTLFAST_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOLDERS = {"tcdcn": "mtfl", "deepid2": "orl_faces", "attributes": "celeba"}
FILES = {"tcdcn": tcdcn.FILES, "deepid2": [deepid2.FILE], "attributes": attributes.FILES}

pytestmark = pytest.mark.usefixtures("one_thread")
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"needs the real data: {DATA} is absent, set MTLFAST_DATA"
)


def cut(name, folder, rows, step=1):
    """Writes the first rows, or one in ``step`` of them, of a recipe's real data into a folder."""
    for file in FILES[name]:
        with np.load(DATA / FOLDERS[name] / file) as whole:
            first = {key: whole[key][:rows:step] for key in whole.files if len(whole[key]) >= rows}
        np.savez(folder / file, **first)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Directories with a part of the real data, by recipe."""
    sizes = {"tcdcn": (700, 1), "deepid2": (400, 2), "attributes": (500, 1)}
    return {name: cut(name, tmp_path_factory.mktemp(name), *size) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Directories with faces enough for what does not depend on how well they are learned."""
    sizes = {"tcdcn": (200, 1), "deepid2": (400, 3), "attributes": (500, 1)}
    return {name: cut(name, tmp_path_factory.mktemp(name), *size) for name, size in sizes.items()}


def build(name, data, epochs=1, **options):
    module = recipe(name)
    usual = {"seed": 0, "weighting": module.WEIGHTING, "output": None}
    return module.build(data=data, epochs=epochs, **{**usual, **options})


def fit(experiment, epochs=1):
    return experiment.trainer.fit(
        experiment.train,
        epochs,
        experiment.batch_size,
        validation=experiment.validation,
        weight_data=experiment.weight_data,
    )


# What each of them does


@needs_data
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.usefixtures("no_pictures")
def test_it_trains_from_the_command_line_and_prints_its_row(name, few, tmp_path, capsys):
    arguments = ["train", name, "--data", few[name], "--epochs", 1, "--output", tmp_path]
    assert main(list(map(str, arguments))) == 0
    module, figures = recipe(name), json.loads((tmp_path / "report.json").read_text())["figures"]
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith(f"| {RECIPES[name]} | {next(iter(module.VARIANTS))}")
    own = {
        "attributes": ", interval 20, momentum 0.0,",
        "deepid2": ", lam 0.05, distance euclidean |",
    }
    assert own.get(name, " | ") in row
    assert all(f"{key} {value:.3f}" in row for key, value in figures.items())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_data_path_without_the_expected_files_names_them(name, tmp_path):
    first, *others = FILES[name]
    for file in others:
        (tmp_path / file).touch()
    message = message_of(lambda: build(name, tmp_path), ValueError, f"has no {first}")
    assert all(file in message for file in FILES[name]) and str(tmp_path) in message


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_that_is_no_array_file_or_lacks_an_array_is_named(name, tmp_path):
    first = FILES[name][0]
    for file in FILES[name]:
        np.savez(tmp_path / file, images=np.zeros((2, 8, 8), np.uint8))
    message_of(lambda: build(name, tmp_path), ValueError, f"{first} must hold the arrays images, ")
    (tmp_path / first).write_text("not an archive")
    message_of(
        lambda: build(name, tmp_path), ValueError, f"{first} cannot be read: it must be an npz"
    )


# TCDCN


@needs_data
def test_landmarks_are_half_the_squared_error_of_a_face_and_the_others_cross_entropies(small):
    tasks = build("tcdcn", small["tcdcn"]).trainer.tasks
    assert [(task.names[0], task.weight) for task in tasks] == [
        ("landmarks", 0.5 * tcdcn.TENTHS**2),
        *((name, tcdcn.LAMBDA) for name in tcdcn.CLASSES),
    ]
    one, two = torch.zeros(3, 10), {"landmarks": torch.full((3, 10), 2.0)}
    assert sums(tasks[0], {"landmarks": one}, two) == 3 * 10 * 4


def test_a_blank_face_has_no_label_and_gives_no_gradient():
    part = {
        "images": np.zeros((4, 40, 40), np.uint8),
        "landmarks": np.random.default_rng(0).random((4, 10), np.float32),
        "attrs": np.ones((4, 3), np.int8),
        "pose": np.full(4, 3, np.int8),
        "has_box": np.array([True, False, True, False]),
    }
    targets = tcdcn.samples(part).targets
    sizes = {"landmarks": 10, **tcdcn.CLASSES}
    outputs = {name: torch.randn(4, size, requires_grad=True) for name, size in sizes.items()}
    for task in tcdcn.make_tasks(tcdcn.CLASSES):
        sums(task, outputs, targets).sum().backward()
        moved = outputs[task.output].grad.abs().sum(1) > 0
        assert moved.tolist() == part["has_box"].tolist()


@needs_data
def test_a_small_threshold_stops_auxiliary_tasks_and_never_the_landmarks(few, monkeypatch):
    monkeypatch.setattr(tcdcn, "WINDOW", 3)
    monkeypatch.setattr(tcdcn, "THRESHOLD", 1e-9)
    experiment = build("tcdcn", few["tcdcn"], epochs=6)
    history = fit(experiment, 6)
    stopped, figures = experiment.trainer.run.stopped, experiment.measure()
    assert stopped and set(stopped) <= set(tcdcn.CLASSES) and min(stopped.values()) >= 3
    assert {f"{name} stopped": epoch for name, epoch in stopped.items()}.items() <= figures.items()
    for row in history:
        assert row["active"] == (row["epoch"] <= stopped.get(row["task"], 6))
    assert figures["landmark error"] < 0.5


@needs_data
def test_the_baseline_is_the_same_network_without_the_auxiliary_heads(small):
    joint, alone = (
        state(build("tcdcn", small["tcdcn"], variant=variant).trainer.model)
        for variant in ("joint", "landmarks")
    )
    assert same(alone, {name: tensor for name, tensor in joint.items() if name in alone})
    assert {name.split(".")[1] for name in joint.keys() - alone.keys()} == set(tcdcn.CLASSES)


@needs_data
def test_the_mean_face_is_a_quarter_of_the_distance_between_the_eyes_off():
    train, validation, test = tcdcn.faces(DATA / "mtfl")
    assert (len(train), len(validation), len(test)) == (9000, 1000, 2995)
    truth = test.targets["landmarks"]
    mean = train.targets["landmarks"].nanmean(0).expand_as(truth)
    assert tcdcn.error(mean, truth) == pytest.approx(0.249, abs=0.002)
    assert tcdcn.error(truth, truth) == 0


# DeepID2


def test_pairs_are_all_of_one_person_and_as_many_different_ones_of_two():
    identity = torch.arange(5).repeat_interleave(4)
    made = pairs(torch.arange(20.0), identity, np.random.default_rng(0))
    first, second = made.targets["identity"].unbind(1)
    assert torch.equal(made.targets["same"].bool(), first == second)
    assert int(made.targets["same"].sum()) == 5 * 6 and len(made) == 2 * 5 * 6
    assert len({tuple(pair) for pair in made.inputs.tolist()}) == len(made)


@pytest.mark.parametrize(
    "identity, message", [([0, 0, 1], "identity 1 has 1"), ([4, 4], "there is but identity 4")]
)
def test_people_with_too_few_faces_for_a_pair_are_refused_in_one_line(identity, message):
    identity, generator = torch.tensor(identity), np.random.default_rng(0)
    message_of(
        lambda: pairs(torch.zeros(len(identity), 1), identity, generator), ValueError, message
    )


def test_a_negative_lambda_is_refused(tmp_path):
    message_of(
        lambda: build("deepid2", tmp_path, lam=-1.0), ValueError, "lambda must be at least 0"
    )


def test_spread_and_pair_auc_are_those_of_a_hand_made_case():
    feature = torch.tensor([[0.0, 1.0], [0.0, -1.0], [4.0, 1.0], [4.0, -1.0]])
    identity = torch.tensor([0, 0, 1, 1])
    assert spread(feature, identity) == {"inter spread": 4.0, "intra spread": 1.0}
    assert pair_auc(feature, identity, deepid2.Verification("euclidean", "both").distances) == 1


@needs_data
def test_lambda_0_is_plain_identification(few):
    experiment = build("deepid2", few["deepid2"], lam=0.0)
    plain = build("deepid2", few["deepid2"], lam=0.0).trainer
    optimizer = torch.optim.Adam(plain.model.parameters(), lr=deepid2.RATE)
    identify = Trainer(plain.model, plain.tasks[0], optimizer, seed=0)
    fit(experiment)
    identify.fit(experiment.train, 1, experiment.batch_size)
    assert same(state(experiment.trainer.model), state(identify.model))


@needs_data
def test_an_infinite_lambda_is_verification_alone_and_keeps_the_margin_at_its_minimum(
    small, monkeypatch
):
    usual, margins = mtlfast.MarginUpdater.observe, []

    def observe(updater, distances, same):
        usual(updater, distances, same)
        margins.append(updater.margin.item())

    monkeypatch.setattr(mtlfast.MarginUpdater, "observe", observe)
    experiment = build("deepid2", small["deepid2"], lam=float("inf"))
    before = state(experiment.trainer.model)
    fit(experiment)
    after = state(experiment.trainer.model)
    fixed = {name for name in before if torch.equal(before[name], after[name])}
    # Differences of features do not depend on the bias of the last layer.
    assert fixed == {"heads.identity.weight", "heads.identity.bias", "backbone.10.bias"}
    assert min(margins) >= deepid2.MIN_MARGIN and len(set(margins)) > 1


@pytest.mark.parametrize("kind, counted", [("both", (0, 1)), ("same", (1,)), ("different", (0,))])
def test_each_variant_sees_its_kind_of_pairs(kind, counted):
    feature = torch.randn(6, 2, 4).mul(0.1).requires_grad_()
    together = torch.tensor([0, 1, 0, 1, 1, 0])
    deepid2.Verification("euclidean", kind)(feature, together).sum().backward()
    moved = feature.grad.flatten(1).abs().sum(1) > 0
    assert moved.tolist() == [label in counted for label in together.tolist()]


@needs_data
@pytest.mark.parametrize("distance", ["euclidean", "manhattan", "cosine"])
def test_each_distance_verifies_people_it_has_not_seen(distance, small):
    experiment = build("deepid2", small["deepid2"], distance=distance)
    fit(experiment)
    figures = experiment.measure()
    assert figures["pair AUC"] > 0.75 and ("margin" in figures) == (distance != "cosine")
    assert int((experiment.test.targets["identity"] >= 0).sum()) == 0


# Attributes


@needs_data
def test_training_weight_validation_and_test_images_are_of_different_people():
    parts = attributes.people(DATA / "celeba")
    assert sum(map(len, parts)) == 4370 and len(parts[0]) > 1600
    images = [{image.numpy().tobytes() for image in part.inputs} for part in parts]
    assert len(set.union(*images)) == sum(map(len, images))


@needs_data
@pytest.mark.parametrize("weighting", ["fixed", "validation-loss-trend"])
def test_attribute_weights_follow_the_trend_or_stay_equal(weighting, small):
    experiment = build("attributes", small["attributes"], weighting=weighting, interval=5)
    history = fit(experiment)
    weights = experiment.trainer.weighting.weights
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    assert (weights.std() > 0.1) == (weighting != "fixed")
    assert len(history) == len(attributes.ATTRIBUTES) == 40


@needs_data
def test_options_reach_the_trend(small):
    chosen = {"interval": 7, "momentum": 0.9, "min_weight": 0.2, "max_weight": 5.0}
    weighting = build("attributes", small["attributes"], **chosen).trainer.weighting
    assert {name: getattr(weighting, name) for name in chosen} == chosen


@pytest.mark.slow
@needs_data
def test_one_epoch_ranks_unseen_people_better_than_chance():
    experiment = build("attributes", DATA / "celeba", weighting="fixed")
    experiment.trainer.fit(experiment.train, 1, experiment.batch_size)
    scores = experiment.trainer.evaluate(experiment.test)
    aurocs = [score["metrics"]["auroc"] for score in scores.values()]
    assert np.mean([value for value in aurocs if value is not None]) > 0.55
