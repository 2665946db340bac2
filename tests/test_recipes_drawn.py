"""Recipes that bring their own data: auxheads, transfer, rpn and textcnn, in short versions."""

from __future__ import annotations

import functools

import pytest
import torch
from messages import message_of
from training import same, state

from mtlfast.cli import main
from mtlfast.recipes import RECIPES, auxheads, recipe, rpn, textcnn, transfer
from mtlfast.recipes.material import patches

OPTIONS = {"data": None, "weighting": "fixed", "output": None}
RPN_PARTS = {"train": 48, "weight_data": 8, "validation": 8, "test": 24}
TEXT_PARTS = {
    "train": ("DejaVu", 480),
    "weight_data": ("cm", 32),
    "validation": ("cm", 64),
    "test": ("STIXGeneral", 200),
}


# Tests learn from the same patches; drawing them takes longer than an epoch.
drawn_once = functools.cache(patches.patches)


@pytest.fixture(autouse=True)
def short(one_thread, monkeypatch):
    """Lets the recipes draw few samples, on one thread as they do."""
    monkeypatch.setattr(transfer, "BODY_EPOCHS", 5)
    monkeypatch.setattr(rpn, "PARTS", RPN_PARTS)
    monkeypatch.setattr(textcnn, "PARTS", TEXT_PARTS)
    monkeypatch.setattr(textcnn, "patches", drawn_once)


def prepare(module, epochs, **options):
    """Returns an experiment, and a function that trains it and returns its own scores."""
    experiment = module.build(**OPTIONS, epochs=epochs, seed=0, **options)

    def fit():
        experiment.trainer.fit(experiment.train, epochs, experiment.batch_size)
        scores = experiment.trainer.evaluate(experiment.test)
        return {name: score["metrics"] for name, score in scores.items()}

    return experiment, fit


@pytest.mark.parametrize("name", ["auxheads", "transfer", "rpn", "textcnn"])
def test_every_recipe_runs_from_the_command_line(name, tmp_path, capsys, no_pictures):
    arguments = ["--epochs", "2", "--seed", "3", "--output", str(tmp_path)]
    assert main(["train", name, *arguments]) == 0
    module = recipe(name)
    row = capsys.readouterr().out.splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert [cells[0], *cells[2:4]] == [RECIPES[name], "its own", module.CLAIM]
    assert cells[1].split(", ")[0] == next(iter(module.VARIANTS))
    assert cells[4].split()[-1][:2] in ("0.", "1.") and cells[5] == "3"


# auxheads


def test_auxiliary_heads_count_three_tenths_and_are_dropped_at_inference():
    experiment, fit = prepare(auxheads, 5)
    run = experiment.trainer
    assert run.joint.weights() == pytest.approx([1, 0.3, 0.3])
    assert run.model.layers == {name: name for name in ("shallow", "middle", "deep")}
    assert fit()["digit"]["accuracy"] > 0.2
    assert list(run.predict(experiment.test)) == ["deep"]


def test_without_auxiliary_heads_the_network_is_the_same_and_they_learn_nothing():
    on, off = (prepare(auxheads, 1, variant=variant) for variant in ("on", "off"))
    assert same(state(on[0].trainer.model), state(off[0].trainer.model))
    model = off[0].trainer.model
    before = state(model)
    off[1]()
    moved = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith(("heads.sh", "heads.mid"))}


# transfer


def test_a_frozen_body_stays_as_it_was_and_the_new_head_learns(monkeypatch):
    monkeypatch.setattr(transfer, "BODY_EPOCHS", 1)
    experiment, fit = prepare(transfer, 2, variant="head")
    before = state(experiment.trainer.model)
    fit()
    after = state(experiment.trainer.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"heads.head.weight", "heads.head.bias"}


def test_a_body_is_fine_tuned_at_a_tenth_of_the_rate_of_the_head(monkeypatch):
    monkeypatch.setattr(transfer, "BODY_EPOCHS", 1)
    rates = {
        variant: {group["name"]: group["lr"] for group in settings["groups"] if "name" in group}
        for variant in transfer.VARIANTS
        for settings in [prepare(transfer, 1, variant=variant)[0].trainer.run.settings["optimizer"]]
    }
    whole = transfer.LEARNING_RATE
    assert rates["head"] == {"heads": whole}
    assert rates["finetune"] == pytest.approx({"backbone": whole / 10, "heads": whole})
    assert rates["scratch"] == {"backbone": whole, "heads": whole}


def test_with_few_labels_a_trained_body_beats_training_from_scratch():
    accuracy = {
        variant: prepare(transfer, 25, variant=variant)[1]()["digit"]["accuracy"]
        for variant in transfer.VARIANTS
    }
    assert min(accuracy["head"], accuracy["finetune"]) > accuracy["scratch"] + 0.03


@pytest.mark.parametrize("shots", [0, 1000])
def test_shots_that_cannot_be_are_refused(shots):
    pattern = rf"^--shots must be from 1 to 1?\d\d, as many as there are; got {shots}\."
    message_of(lambda: prepare(transfer, 1, shots=shots), ValueError, pattern)


# textcnn


def test_a_stopped_task_gives_no_gradient_and_no_update():
    experiment, fit = prepare(textcnn, 3)
    run, seen = experiment.trainer, []
    heads = run.model.heads

    def record(optimizer, args, options):
        given = {
            name for name in heads if any(p.grad is not None for p in heads[name].parameters())
        }
        seen.append((given, state(heads)))

    run.optimizer.register_step_post_hook(record)
    fit()
    assert [given for given, _ in seen] == 15 * [{"character", "region"}] + 30 * [
        {"text", "character"}
    ]
    for name, steps in (("text", seen[:15]), ("region", seen[14:])):
        own = [{k: v for k, v in heads.items() if k.startswith(name)} for _, heads in steps]
        assert own[0] and all(same(own[0], later) for later in own)
    idle = [(row["epoch"], row["task"]) for row in run.run.history if not row["active"]]
    assert idle == [(1, "text"), (2, "region"), (3, "region")]
    assert list(run.predict(experiment.test)) == ["text"]


def test_masks_are_the_pixels_of_characters_and_are_empty_where_there_is_none():
    samples = patches.patches("DejaVu", 60, 0)
    text = samples.targets["text"] == 1
    masks, character = samples.targets["region"], samples.targets["character"]
    assert text.sum() == 30 and not masks[~text].any() and (character[~text] == -1).all()
    assert ((masks == 0) | (masks == 1)).all() and (character[text] >= 0).all()
    assert all(5 < mask.sum() < 500 for mask in masks[text])


def test_the_test_patches_are_always_the_same_and_of_other_fonts(monkeypatch):
    monkeypatch.setattr(textcnn, "patches", patches.patches)
    first, second = (textcnn.build(**OPTIONS, epochs=2, seed=seed) for seed in (0, 1))
    assert torch.equal(first.test.inputs, second.test.inputs)
    assert not torch.equal(first.train.inputs, second.train.inputs)
    families = {name: family for name, (family, _) in textcnn.PARTS.items()}
    assert families["test"] not in (families["train"], families["validation"])


@pytest.mark.parametrize("variant", textcnn.VARIANTS)
def test_a_short_run_tells_text_from_clutter(variant):
    assert prepare(textcnn, 6, variant=variant)[1]()["text"]["accuracy"] > 0.6
