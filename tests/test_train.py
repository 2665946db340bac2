"""Properties of the trainer: what it learns from, and what it leaves alone."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from training import BCE, data, network, same, state, tasks, trainer

import mtlfast.functional as MF
from mtlfast.data.sampler import Plan
from mtlfast.train import MultiTaskModel, Samples, Stage, Task, checkpoint
from mtlfast.train.sources import Batch, endless, sources
from mtlfast.weighting import Fixed, ValidationLossTrend

# What one step does


def test_training_equals_a_hand_written_loop_bit_for_bit():
    ours, theirs, samples = network(), network(), data()
    trainer(ours, seed=3).fit(samples, epochs=2, batch_size=8)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for epoch in range(2):
        for (part,) in Plan([37], 8, seed=3).epoch(epoch):
            x, y = samples[part.slices[0]]
            outputs, kind = theirs(x), y["kind"] >= 0
            class_loss = F.cross_entropy(
                torch.where(kind[:, None], outputs["kind"], 0),
                torch.where(kind, y["kind"], 0),
                reduction="none",
            )
            class_sum = torch.where(kind, class_loss, 0).sum().reshape(1)
            _, flags = MF.binary_cross_entropy_with_logits(
                outputs["flags"], y["flags"], return_tasks=True
            )
            counts = torch.cat((kind.sum().reshape(1), flags.count))
            losses = torch.cat((class_sum, flags.loss * flags.count)) / counts.clamp(min=1)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
    assert same(state(ours), state(theirs))


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("normalizer", ["labelled", "rows", 7.0])
def test_micro_batches_give_the_gradient_of_the_whole_batch(parts, normalizer):
    models = [network(norm=False).double() for _ in range(2)]
    samples = data()
    samples.inputs = samples.inputs.double()
    for model, accumulate in zip(models, (1, parts), strict=True):
        learned = tasks(normalizer=normalizer, weight=0.5)
        trainer(model, learned, accumulate=accumulate).fit(samples, epochs=2, batch_size=8)
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "normalizer, divisor", [("labelled", torch.tensor([4, 2])), ("rows", 5), (10, 10)]
)
def test_a_normalizer_divides_the_sum_over_labelled_elements(normalizer, divisor):
    flags = torch.tensor([[1, -1], [0, 1], [1, -1], [0, 0], [-1, -1]], dtype=torch.int8)
    task = Task(["a", "b"], output="y", target="y", loss=BCE, normalizer=normalizer, weight=2)
    model = MultiTaskModel(nn.Identity(), {"y": nn.Linear(2, 2)})
    x = torch.randn(5, 2)
    joint = trainer(model, task).joint
    batch = Batch(x, {"y": flags}, [task], rows=5)
    present = joint.labelled(batch)
    counts = joint.counts(present)
    loss, _ = joint(batch, present, counts, joint.divisors(counts, [batch]))
    target = flags.float()
    every = F.binary_cross_entropy_with_logits(model(x)["y"], target, reduction="none")
    sums = torch.where(flags >= 0, every, 0).sum(0)
    torch.testing.assert_close(loss, (2 * sums / divisor).sum())


def test_every_sample_is_read_once_an_epoch_in_an_order_of_its_own():
    def order(seed, epoch):
        return [i for (part,) in Plan([37], 8, seed).epoch(epoch) for i in part.slices[0]]

    assert sorted(order(0, 0)) == list(range(37))
    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_the_stream_of_weight_data_goes_on_from_any_position_without_restart():
    task = Task("t", output="y", target="t", loss="mse_loss")
    ten = sources("weight_data", Samples(torch.arange(10), {"t": torch.ones(10)}), [task])

    def stream(start=0):
        steps = endless(ten, Plan([10], 4, seed=0), torch.device("cpu"), start=start)
        return (batch.inputs.tolist() for (batch,) in steps)

    whole, rest = stream(), stream(5)
    first = [next(whole) for _ in range(7)]
    assert first[5:] == [next(rest) for _ in range(2)]
    for epoch in (first[:3], first[3:6]):
        assert sorted(index for batch in epoch for index in batch) == list(range(10))


class Pairs(Dataset):
    """The samples one by one, as any map-style data set gives them."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def test_a_data_set_of_single_items_and_its_loader_train_like_tensors():
    models = [network() for _ in range(3)]
    sources = (data(), Pairs(data()), DataLoader(Pairs(data()), num_workers=1))
    for model, source in zip(models, sources, strict=True):
        trainer(model).fit(source, epochs=1, batch_size=8)
    assert same(state(models[0]), state(models[1]))
    assert same(state(models[0]), state(models[2]))


# What it leaves alone


@pytest.mark.filterwarnings("ignore:weights are first renewed")
def test_weight_data_gives_no_gradient_and_never_touches_batch_norm():
    with_data, without = network(), network()
    kept = Fixed([1.0, 1.0, 1.0])
    watching = ValidationLossTrend(3, interval=10**6)
    trainer(with_data, weighting=watching).fit(data(), 2, 8, weight_data=data(20, seed=1))
    trainer(without, weighting=kept).fit(data(), 2, 8)
    assert watching.observations == 10
    assert same(state(with_data), state(without))


def test_modules_in_evaluation_mode_stay_in_it():
    model = network()
    model.backbone[1].eval()
    before = state(model.backbone[1])
    trend = ValidationLossTrend(3, interval=1)
    run = trainer(model, weighting=trend)
    run.fit(data(), 1, 8, weight_data=data(9, seed=1), validation=data(9, seed=2))
    after = state(model.backbone[1])
    assert not model.backbone[1].training and model.training and model.heads.training
    assert torch.equal(before["running_mean"], after["running_mean"])


def test_validation_changes_nothing():
    models = [network(dropout=0.5) for _ in range(2)]
    trainer(models[0]).fit(data(), 2, 8)
    trainer(models[1]).fit(data(), 2, 8, validation=data(9, seed=2))
    assert same(state(models[0]), state(models[1]))


def test_a_stopped_task_does_not_move_its_head_by_one_bit(tmp_path):
    trainer(
        optimizer=functools.partial(torch.optim.AdamW, weight_decay=0.1),
        weighting=ValidationLossTrend(3, interval=5),
        stages=[Stage(["kind", "a", "b"], 2), Stage(["a", "b"], 1)],
        output=tmp_path,
    ).fit(data(), 3, 8, weight_data=data(20, seed=1))
    before, after = map(checkpoint.load, sorted((tmp_path / "checkpoints").iterdir()))
    for part in ("weight", "bias"):
        kind, flags = f"heads.kind.{part}", f"heads.flags.{part}"
        assert torch.equal(before["model"][kind], after["model"][kind])
        assert not torch.equal(before["model"][flags], after["model"][flags])
    weight, later = before["weighting"]["weights"][0], after["weighting"]["weights"][0]
    assert weight == later != 1


def test_auxiliary_heads_do_not_predict():
    backbone = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    model = MultiTaskModel(backbone, {"main": nn.Linear(2, 1), "early": ("0", nn.Linear(4, 1))})
    learned = [
        Task("main", output="main", target="t", loss="mse_loss"),
        Task("early", output="early", target="t", loss="mse_loss", weight=0.3, auxiliary=True),
    ]
    x = torch.randn(6, 5)
    run = trainer(model, learned)
    run.fit(Samples(x, {"t": torch.randn(6)}), 1, 3)
    predicted = run.predict(Samples(x, {}))
    assert list(predicted) == ["main"] and predicted["main"].shape == (6, 1)
