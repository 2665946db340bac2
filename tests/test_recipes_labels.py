"""The labelstructures recipe on Omniglot: quadruplets, losses, retrieval, and a short run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from messages import message_of

import mtlfast.functional as MF
from mtlfast.cli import main
from mtlfast.recipes import labelstructures
from mtlfast.recipes.material import omniglot

DATA = Path(os.environ.get("MTLFAST_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOLDER = DATA / "omniglot"
needs_data = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"the Omniglot data is not in {FOLDER}; MTLFAST_DATA names its place",
)
OPTIONS = {"data": FOLDER, "epochs": 1, "weighting": "fixed", "output": None}


@pytest.fixture(scope="module")
def parts():
    return omniglot.read(FOLDER, levels=True)


@pytest.mark.parametrize("levels", [True, False])
def test_a_quadruplet_goes_from_near_to_far(levels):
    alphabets = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    data = omniglot.Quadruplets(torch.zeros(180, 28, 28), alphabets, levels)
    anchors = torch.arange(180).repeat(20)
    rows = data.rows(anchors, torch.Generator().manual_seed(0))
    character = rows // omniglot.DRAWERS
    alphabet = alphabets[character]
    anchor, same, near, far = rows.unbind(1)
    assert torch.equal(anchor, anchors) and (same != anchor).all()
    assert (character[:, 0] == character[:, 1]).all()
    assert (character[:, 2:] != character[:, :1]).all()
    relatives = (alphabet == alphabet[:, :1]).float().mean(0).tolist()
    if levels:
        assert relatives == [1, 1, 1, 0]
    else:
        assert all(0.1 < share < 0.4 for share in relatives[2:])
    assert all(len(part.unique()) == 180 for part in (same, near, far))


def test_retrieval_finds_characters_and_with_them_removed_alphabets():
    features = torch.tensor([[1.0, 0], [1.0, 0.1], [1, 0.3], [0.9, 0.4], [0, 1], [0.3, 2]])
    character, alphabet = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1])
    found = omniglot.retrieval(features, character, alphabet)
    assert found == pytest.approx({"character@1": 1, "alphabet@1": 4 / 6})
    scaled = omniglot.retrieval(features * torch.arange(1, 7)[:, None], character, alphabet)
    assert scaled == found


@pytest.mark.parametrize("squared", [True, False])
def test_the_losses_are_those_of_the_paper(squared):
    features = torch.randn(5, 4, 8, dtype=torch.float64)
    unit = features / features.norm(dim=-1, keepdim=True)
    d = (unit[:, :1] - unit[:, 1:]).norm(dim=-1) ** (2 if squared else 1)
    margins = labelstructures.MARGINS
    (m1, m2), (m,) = margins["hierarchical"], margins["triplet"]
    assert m1 > m2 > 0
    quadruplet = (d[:, 0] - d[:, 1] + m1 - m2).relu() + (d[:, 1] - d[:, 2] + m2).relu()
    own = labelstructures.structure(features, None, (m1, m2), squared)
    torch.testing.assert_close(own, quadruplet / 2)
    own = labelstructures.structure(features, None, (m,), squared)
    torch.testing.assert_close(own, (d[:, 0] - d[:, 1] + m).relu() / 2)
    anchor, positive, negative, _ = features.unbind(1)
    plain = MF.normalized_triplet_loss(anchor, positive, negative, m, squared=squared)
    torch.testing.assert_close(own.mean(), plain)


def test_a_directory_without_the_file_is_refused(tmp_path, capsys):
    message_of(lambda: omniglot.read(tmp_path, True), ValueError, r"has no omniglot_small\.npz")
    assert main(["train", "labelstructures", "--output", str(tmp_path)]) == 2
    assert "needs --data, a directory with omniglot_small.npz" in capsys.readouterr().err


@needs_data
def test_a_quarter_of_each_alphabets_characters_is_held_out(parts):
    train, test, images = parts
    counts = torch.stack([p.targets["alphabet"][::20].bincount() for p in (train, images)])
    share = counts[1] / counts.sum(0)
    assert counts.sum() == 242 and share.tolist() == pytest.approx([0.25] * 8, abs=0.025)
    again = omniglot.read(FOLDER, levels=True)
    assert torch.equal(again[1].inputs, test.inputs) and torch.equal(again[0].inputs, train.inputs)
    assert len(test) == len(images) and (test.targets["character"] == -1).all()


@needs_data
def test_softmax_and_triplets_share_the_weight(one_thread):
    weights = {
        variant: labelstructures.build(**OPTIONS, seed=0, variant=variant).trainer.joint.weights()
        for variant in labelstructures.VARIANTS
    }
    share = labelstructures.LAMBDA_S
    assert weights["hierarchical"] == weights["triplet"] == pytest.approx([share, 1 - share])
    assert weights["softmax"] == [1]


@needs_data
@pytest.mark.parametrize("variant", labelstructures.VARIANTS)
def test_a_short_run_retrieves_characters_it_has_never_seen(variant, one_thread, monkeypatch):
    def few(folder, levels):
        train, test, images = omniglot.read(folder, levels)
        pieces = train.inputs.unflatten(0, (-1, 20))[::4].flatten(0, 1)
        alphabets = train.targets["alphabet"][::20][::4]
        return omniglot.Quadruplets(pieces, alphabets, levels), test, images

    monkeypatch.setattr(labelstructures, "read", few)
    monkeypatch.setattr(labelstructures, "BATCH_SIZE", 16)
    experiment = labelstructures.build(**OPTIONS, seed=0, variant=variant, squared=True)
    experiment.trainer.fit(experiment.train, 1, experiment.batch_size)
    figures = experiment.measure()
    assert figures["character@1"] > 0.5 and figures["alphabet@1"] > 0.25
