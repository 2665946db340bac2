"""Properties of how data is read: the forms it may have, per-task data sets, workers, plans."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from messages import message_of
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from training import BCE, data, network, same, state, trainer

from mtlfast.data.sampler import Plan, in_order
from mtlfast.train import MultiTaskModel, Samples, Task, TaskDatasets


class Items(Dataset):
    """A data set of single items, each made by a function of the index."""

    def __init__(self, length, item):
        self.length, self.item = length, item

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.item(index)


# Forms


def two_columns(index):
    return torch.tensor([index % 2, (index // 2) % 2])


FORMS = {
    "mapping of labels": lambda x, y: (x, {"y": y}),
    "labels": lambda x, y: (x, y),
    "mapping": lambda x, y: {"image": x, "y": y},
    "list": lambda x, y: [x, y],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_batch_trains_alike(form):
    learned = Task(["a", "b"], output="flags", target="y", loss=BCE)
    x = torch.randn(20, 5)
    rows = Items(20, lambda i: FORMS[form](x[i], two_columns(i)))
    expected = Samples(x, {"y": torch.stack([two_columns(i) for i in range(20)])})
    models = [network(norm=False) for _ in range(2)]
    for model, given in zip(models, (rows, expected), strict=True):
        run = trainer(model, learned)
        run.fit(given, 2, 8, validation=given)
        assert run.predict(given)["flags"].shape == (20, 2)
    assert same(state(models[0]), state(models[1]))


def test_a_mapping_gives_the_model_all_that_is_no_label():
    class Sum(nn.Module):
        def forward(self, parts):
            return parts["left"] + parts["right"]

    rows = Items(8, lambda i: {"left": torch.ones(3), "right": torch.ones(3), "y": float(i)})
    model = MultiTaskModel(Sum(), {"y": nn.Linear(3, 1)})
    run = trainer(model, Task("y", output="y", target="y", loss="mse_loss"))
    run.fit(rows, 1, 4)
    assert torch.equal(run.predict(rows)["y"][0], model.heads["y"](torch.full((3,), 2.0)).detach())


def test_an_item_can_be_a_whole_pair():
    class PairBody(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, pairs):
            return self.linear(pairs)

    x, alike = torch.randn(12, 2, 4), torch.randint(0, 2, (12,))
    model = MultiTaskModel(PairBody(), {"embedding": nn.Identity()})
    run = trainer(model, Task("v", output="embedding", target="same", loss="contrastive_loss"))
    run.fit(Samples(x, {"same": alike}), 1, 4)
    (score,) = run.evaluate(Samples(x, {"same": alike})).values()
    distance = (model(x)["embedding"][:, 0] - model(x)["embedding"][:, 1]).norm(dim=1)
    hinge = torch.where(alike > 0, distance**2, (1 - distance).clamp(min=0) ** 2) / 2
    assert score["loss"] == pytest.approx(hinge.mean().item()) and score["count"] == 12


# Per-task data sets


def separate(sampling="proportional", rows=(20, 7)):
    kind, flags = data(rows[0], missing=0), data(rows[1], seed=1, missing=0)
    del kind.targets["flags"], flags.targets["kind"]
    return TaskDatasets({"kind": kind, "b": flags}, sampling)


LABELS = {"proportional": (20, 7), "round_robin": (20, 7), "max_size_cycle": (20, 20)}


@pytest.mark.parametrize("sampling", LABELS)
def test_each_data_set_trains_its_task(sampling):
    model = network(norm=False)
    run = trainer(model, lr=0.3)
    before = state(model)
    history = run.fit(separate(sampling), 1, 4, validation=separate())
    counts = {row["task"]: row["train_labels"] for row in history}
    kind, flags = LABELS[sampling]
    # The shorter one is read in batches of 4 and 3, the longer in five of 4.
    flags = flags if sampling != "max_size_cycle" else 4 + 3 + 4 + 3 + 4
    assert counts == {"kind": kind, "a": flags, "b": flags}
    assert [row["validation_labels"] for row in history] == [20, 7, 7]
    assert all(not torch.equal(before[key], value) for key, value in state(model).items())


@pytest.mark.parametrize("sampling", LABELS)
def test_a_plan_of_several_data_sets_reads_what_it_promises(sampling):
    plan = Plan([10, 4], 3, seed=0, sampling=sampling)
    steps = plan.epoch(0)
    assert len(steps) == len(plan) and steps == plan.epoch(0) != plan.epoch(1)
    read = [
        [i for step in steps for p in step if p.source == s for i in p.slices[0]] for s in (0, 1)
    ]
    assert sorted(read[0]) == list(range(10))
    sources = [[part.source for part in step] for step in steps]
    if sampling == "max_size_cycle":
        assert sources == [[0, 1]] * 4 and sorted(read[1][:4]) == sorted(read[1][4:]) == [
            0,
            1,
            2,
            3,
        ]
    else:
        assert sorted(read[1]) == list(range(4)) and sorted(sources) == [[0]] * 4 + [[1]] * 2
    if sampling == "round_robin":
        assert sources == [[0], [1], [0], [1], [0], [0]]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_everything_and_nothing_twice(length, processes):
    for steps in (Plan([length], 4, 0, 2, processes).epoch(3), in_order(length, 2, processes)):
        every = [part for step in steps for part in step]
        assert all(len(part.slices) == processes and part.slices[0] for part in every)
        assert sorted(i for part in every for piece in part.slices for i in piece) == list(
            range(length)
        )
    whole = [
        piece
        for r in range(processes)
        for (p,) in in_order(length, 2, processes)
        for piece in p.slices[r]
    ]
    assert whole == list(range(length))


# Workers


def noisy(index):
    """Draws from all generators, as augmentations do."""
    noise = torch.rand(5) + random.random() + np.random.rand()
    return noise + index, {"kind": index % 3, "flags": two_columns(index)}


class Recorder(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return x


def recorded(workers, epochs=2):
    model = network(norm=False)
    recorder = model.backbone[0] = nn.Sequential(Recorder(), model.backbone[0])
    loader = DataLoader(Items(12, noisy), num_workers=workers)
    trainer(model).fit(loader, epochs, 4)
    return recorder[0].seen[1:]  # the first is a look at the data before training


def test_what_workers_draw_at_random_depends_on_the_batch_alone():
    one, two = recorded(1), recorded(2)
    assert all(map(torch.equal, one, two))
    fractions = torch.cat(one).frac()
    assert len(fractions.unique()) == fractions.numel(), "every epoch draws anew"


# Bad input


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def fit(given, learned=None, **options):
    return lambda: trainer(learned=learned).fit(given, 1, 4, **options)


def of_class(label):
    samples = data(8)
    samples.targets["kind"][3] = label
    return samples


BAD = [
    (fit(Stream()), "dataset must be a data set with a length and items by index; got Stream"),
    (fit(Items(8, lambda i: torch.ones(5))), r"must yield \(input, {target name: labels}\)"),
    (fit(Items(8, lambda i: (1, 2, 3))), "where there is one target, or a mapping; got 3 values"),
    (fit(TaskDatasets({"c": data()})), r"must name tasks of \['kind', 'a', 'b'\]; got \['c'\]"),
    (fit(TaskDatasets({"kind": data()})), r"a data set for every task; got none for \[Task\(a"),
    (lambda: TaskDatasets({}), "datasets must hold at least one data set"),
    (lambda: TaskDatasets({"a": data()}, "random"), "sampling must be one of proportional, round"),
    (fit(of_class(3)), "'kind' must hold class indices below 3, the width of head 'kind'; got 3"),
    (fit(Items(8, lambda i: of_class(9)[i])), "class indices below 3.*got 9"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_data_is_refused_in_one_line(call, message):
    message_of(call, ValueError, message)
