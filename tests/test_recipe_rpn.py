"""The rpn recipe: its loss against an independent one, its anchors, and a short run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mtlfast.recipes import rpn
from mtlfast.recipes.material import boxes
from mtlfast.train import MultiTaskModel, Samples, Trainer
from mtlfast.train.sources import Batch


def numpy_loss(logits, deltas, labels, targets, variant):
    """Returns the RPN's loss of a step, straight from the paper or from py-faster-rcnn."""
    balance, places, beta = (10, 2400, 1) if variant == "paper" else (1, 256, 1 / 9)
    total = 0.0
    for logit, label in zip(logits.reshape(-1), labels.reshape(-1), strict=True):
        if label >= 0:
            probability = 1 / (1 + np.exp(-logit))
            total -= np.log(probability if label == 1 else 1 - probability) / 256
    for label, delta, target in zip(
        labels.reshape(-1), deltas.reshape(-1, 4), targets.reshape(-1, 4), strict=True
    ):
        if label == 1:
            gap = np.abs(delta - target)
            smooth = np.where(gap < beta, gap**2 / (2 * beta), gap - beta / 2)
            total += balance * smooth.sum() / places
    return total


class Columns(nn.Module):
    def __init__(self, start, stop):
        super().__init__()
        self.range = slice(start, stop)

    def forward(self, x):
        return x[..., self.range]


def step(variant, outputs, samples):
    """Returns the loss of one training step, and its gradient by the outputs (N, A, 5)."""
    heads = {"objectness": Columns(0, 1), "deltas": Columns(1, 5)}
    model = MultiTaskModel(nn.Identity(), heads)
    parameter = nn.Parameter(torch.zeros(1))
    run = Trainer(model, rpn.tasks(variant), torch.optim.SGD([parameter], lr=1.0))
    given = outputs.clone().requires_grad_()
    batch = Batch(given, samples.targets, run.tasks, len(given))
    present = run.joint.labelled(batch)
    counts = run.joint.counts(present)
    divisors = run.joint.divisors(counts, [batch])
    loss, _ = run.joint(batch, present, counts, divisors)
    loss.backward()
    return loss.item(), given.grad


@pytest.fixture(scope="module")
def drawn():
    """A step's eight images, with more than one positive anchor, and outputs near the targets."""
    generator = torch.Generator().manual_seed(5)
    samples, _ = boxes.draw(8, generator)
    outputs = torch.randn(8, 2700, 5, generator=generator, dtype=torch.float64)
    outputs[..., 1:] *= 0.5
    targets = {name: target.double() for name, target in samples.targets.items()}
    targets["objectness"] = samples.targets["objectness"]
    return Samples(samples.inputs, targets), outputs


@pytest.mark.parametrize("variant", rpn.VARIANTS)
def test_the_loss_equals_an_independent_one_and_its_gradient_finite_differences(variant, drawn):
    samples, outputs = drawn
    labels, targets = (samples.targets[name].numpy() for name in ("objectness", "deltas"))

    def expected(values):
        return numpy_loss(values[..., 0], values[..., 1:], labels, targets, variant)

    loss, gradient = step(variant, outputs, samples)
    values = outputs.numpy()
    assert loss == pytest.approx(expected(values), rel=1e-6)

    kinds = {kind: np.argwhere(labels == kind)[:3] for kind in (-1, 0, 1)}
    for kind, places in kinds.items():
        for image, anchor in places:
            for column in range(5):
                sides = []
                for shift in (1e-5, -1e-5):
                    moved = values[image : image + 1, anchor : anchor + 1].copy()
                    moved[..., column] += shift
                    own = (slice(image, image + 1), slice(anchor, anchor + 1))
                    sides.append(
                        numpy_loss(
                            moved[..., 0], moved[..., 1:], labels[own], targets[own], variant
                        )
                    )
                difference = (sides[0] - sides[1]) / 2e-5
                own_gradient = gradient[image, anchor, column].item()
                assert own_gradient == pytest.approx(difference, rel=1e-5, abs=1e-9)
                counts = kind == 1 or (kind == 0 and column == 0)
                assert (own_gradient != 0) == counts


@pytest.mark.parametrize("variant", rpn.VARIANTS)
def test_without_a_positive_anchor_the_regression_loss_is_0_with_a_finite_gradient(variant):
    generator = torch.Generator().manual_seed(0)
    labels, deltas = boxes.label(torch.zeros(0, 4), generator)
    assert (labels == 0).sum() == boxes.SAMPLED and (labels != 1).all() and deltas.isnan().all()
    samples = Samples(torch.zeros(1, 1), {"objectness": labels[None], "deltas": deltas[None]})
    loss, gradient = step(variant, torch.zeros(1, 2700, 5), samples)
    assert loss == pytest.approx(boxes.SAMPLED * np.log(2) / 256, rel=1e-6)
    assert gradient.isfinite().all() and not gradient[..., 1:].any()


def test_decoding_inverts_the_box_deltas():
    anchors = boxes.anchors()
    assert anchors.shape == (2700, 4)
    moved = anchors + torch.tensor([3.0, -2.0, 9.0, 5.0])
    deltas = boxes.encode(moved, anchors)
    size = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(deltas[:, 0], 6 / size[:, 0])
    torch.testing.assert_close(deltas[:, 3], ((size[:, 1] + 7) / size[:, 1]).log())
    torch.testing.assert_close(boxes.decode(deltas, anchors), moved)


def test_positive_anchors_lie_on_objects_and_those_across_the_border_are_ignored():
    samples, truths = boxes.draw(20, torch.Generator().manual_seed(1))
    anchors, border = boxes.anchors(), torch.tensor([boxes.WIDTH, boxes.HEIGHT])
    outside = (anchors[:, :2] < 0).any(1) | (anchors[:, 2:] > border).any(1)
    for number, truth in enumerate(truths):
        labels = samples.targets["objectness"][number]
        deltas = samples.targets["deltas"][number]
        overlap = boxes.iou(anchors, truth).amax(1)
        assert (labels >= 0).sum() == boxes.SAMPLED and (labels == 1).any()
        assert (labels[outside] == -1).all() and (overlap[labels == 0] < 0.3).all()
        assert torch.equal(~deltas.isnan().any(1), labels == 1)
        found = boxes.decode(deltas, anchors)[labels == 1]
        assert boxes.iou(found, truth).amax(1) == pytest.approx(1, abs=1e-3)


def test_a_short_run_proposes_objects(one_thread, monkeypatch):
    parts = {"train": 48, "weight_data": 8, "validation": 8, "test": 24}
    monkeypatch.setattr(rpn, "PARTS", parts)
    experiment = rpn.build(data=None, epochs=5, seed=0, weighting="fixed", output=None)
    run, before = experiment.trainer, experiment.measure()["recall at IoU 0.5"]
    run.fit(experiment.train, 5, experiment.batch_size)
    assert run.evaluate(experiment.test)["objectness"]["metrics"]["auroc"] > 0.8
    assert experiment.measure()["recall at IoU 0.5"] > before + 0.1
