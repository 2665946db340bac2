"""A trainer reads the rows that it was given: those of a sampler, of Subsets, and no others."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from messages import message_of
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)
from torch.utils.data.distributed import DistributedSampler
from training import data, network, same, state, tasks, trainer

from mtlfast.train import Samples, TaskDatasets
from mtlfast.weighting import ValidationLossTrend

ROWS = [30, 3, 17, 4, 9, 25, 11, 36, 0]


class Items(Dataset):
    """Samples read one by one, by what torch knows of a data set."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def at(samples, rows):
    return Samples(*samples[torch.as_tensor(rows)])


# name: the same rows, said in another way
SAID = {
    "Subset": lambda d: Subset(d, ROWS),
    "Subset of an array": lambda d: Subset(d, np.array(ROWS)),
    "Subset of a tensor": lambda d: Subset(d, torch.tensor(ROWS)),
    "counted from the end": lambda d: Subset(d, [row - len(d) for row in ROWS]),
    "nested": lambda d: Subset(Subset(d, [*ROWS, 5, 6]), range(len(ROWS))),
    "thrice": lambda d: Subset(Subset(Subset(d, ROWS[::-1]), range(9)), range(8, -1, -1)),
    "Subset in a loader": lambda d: DataLoader(Subset(d, ROWS), batch_size=2, shuffle=True),
    "SubsetRandomSampler": lambda d: DataLoader(d, 3, sampler=SubsetRandomSampler(ROWS)),
    "list": lambda d: DataLoader(d, sampler=ROWS),
    "sampler of a Subset": lambda d: DataLoader(
        Subset(d, [1, *ROWS]), sampler=SubsetRandomSampler(range(1, 10))
    ),
    "BatchSampler": lambda d: DataLoader(
        d, batch_sampler=BatchSampler(SubsetRandomSampler(ROWS), 4, False)
    ),
    "workers": lambda d: DataLoader(d, sampler=ROWS, num_workers=1),
    "joined": lambda d: ConcatDataset([Subset(d, ROWS[:4]), Subset(d, ROWS[4:])]),
}


@pytest.mark.parametrize("kind", [Samples, Items])
@pytest.mark.parametrize("said", SAID)
def test_the_same_rows_give_the_same_run(said, kind):
    whole = data()
    given = SAID[said](whole if kind is Samples else Items(whole))
    runs = []
    for rows in (at(whole, ROWS), given):
        run = trainer(network(norm=False))
        history = run.fit(rows, 2, 4, validation=rows)
        losses = [(row["train_loss"], row["validation_loss"]) for row in history]
        runs.append((losses, run.evaluate(rows), run.predict(rows), state(run.model)))
    (losses, scores, predicted, weights), (others, other_scores, again, others_weights) = runs
    assert losses == others and scores == other_scores
    assert same(predicted, again) and same(weights, others_weights)


ALL = {
    "plain": lambda d: DataLoader(d),
    "shuffled": lambda d: DataLoader(d, 8, shuffle=True),
    "last dropped": lambda d: DataLoader(d, 8, shuffle=True, drop_last=True),
    "in order": lambda d: DataLoader(d, sampler=SequentialSampler(d)),
    "in random order": lambda d: DataLoader(d, sampler=RandomSampler(d)),
    "all of them": lambda d: DataLoader(d, sampler=range(len(d))),
    "a batch sampler of torch's": lambda d: DataLoader(
        d, batch_sampler=BatchSampler(SequentialSampler(d), 5, True)
    ),
    "Subset of all": lambda d: Subset(d, range(len(d))),
}


@pytest.mark.parametrize("said", ALL)
def test_a_loader_of_all_rows_is_its_data_set(said):
    whole = data()
    run = trainer()
    assert run.evaluate(ALL[said](whole)) == run.evaluate(whole)
    assert same(run.predict(ALL[said](whole)), run.predict(whole))


def test_a_split_trains_on_its_part_alone():
    whole, seen = data(), []

    class Watched(Items):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    train, validation = random_split(Watched(whole), [25, 12])
    run = trainer(network(norm=False))
    run.fit(train, 1, 8)
    assert set(seen) == set(train.indices)
    seen.clear()
    run.evaluate(validation)
    assert set(seen) == set(validation.indices)


class Own(Sampler):
    def __iter__(self):
        return iter(ROWS)

    def __len__(self):
        return len(ROWS)


class Batches(BatchSampler):
    pass


class Alike(SubsetRandomSampler):
    """Reads other rows than its indices say."""

    def __iter__(self):
        return iter(range(4))


REFUSED = {
    "WeightedRandomSampler": lambda d: DataLoader(
        d, sampler=WeightedRandomSampler(torch.ones(len(d)), len(d))
    ),
    "RandomSampler": lambda d: DataLoader(d, sampler=RandomSampler(d, replacement=True)),
    "RandomSampler of a few": lambda d: DataLoader(d, sampler=RandomSampler(d, num_samples=5)),
    "RandomSampler of more": lambda d: DataLoader(d, sampler=RandomSampler(d, num_samples=50)),
    "DistributedSampler": lambda d: DataLoader(d, sampler=DistributedSampler(d, 2, 1)),
    "Own": lambda d: DataLoader(d, sampler=Own()),
    "Alike": lambda d: DataLoader(d, sampler=Alike(ROWS)),
    "Batches": lambda d: DataLoader(d, batch_sampler=Batches(SequentialSampler(d), 4, False)),
    "list": lambda d: DataLoader(d, batch_sampler=[[0, 1], [2, 3]]),
    "batch_size=None": lambda d: DataLoader(d, batch_size=None),
}


VERBS = ["fit", "validation", "evaluate", "predict", "by task"]


@pytest.mark.parametrize(
    "said, verb",
    [
        *((said, "fit") for said in REFUSED),
        *(("WeightedRandomSampler", verb) for verb in VERBS[1:]),
    ],
)
def test_a_sampler_that_is_no_fixed_list_of_rows_is_refused(said, verb):
    whole = data()
    given, run = REFUSED[said](whole), trainer()
    call = {
        "fit": lambda: run.fit(given, 1, 8),
        "validation": lambda: run.fit(whole, 1, 8, validation=given),
        "evaluate": lambda: run.evaluate(given),
        "predict": lambda: run.predict(given),
        "by task": lambda: run.fit(TaskDatasets({"kind": given, "a": whole}), 1, 8),
    }[verb]
    name = said.split(" of ")[0]
    message_of(
        call, ValueError, f"the same rows in every epoch; got a DataLoader with {name}: pass"
    )


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


BAD_ROWS = {
    "past the end": ([0, 37], "dataset's Subset must hold rows below 37; got 37"),
    "before the start": ([0, -38], "rows below 37; got -38"),
    "a mask": ([True] * 37, r"must hold row numbers; got bool: for a mask pass mask.nonzero\(\)"),
    "a mask of torch's": (torch.ones(37, dtype=torch.bool), "row numbers; got bool"),
    "fractions": ([0.5, 1.0], "must hold row numbers; got float64"),
    "none": ([], "dataset must hold at least one sample; got none"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_a_data_set_does_not_have_are_refused(case):
    rows, message = BAD_ROWS[case]
    message_of(lambda: trainer().fit(Subset(data(), rows), 1, 8), ValueError, message)


@pytest.mark.parametrize(
    "given, name",
    [
        ({"x": torch.ones(3)}, "dict"),
        (Samples, "type"),
        (DataLoader(Stream()), "Stream"),
    ],
)
def test_what_has_no_rows_is_refused(given, name):
    message_of(lambda: trainer().evaluate(given), ValueError, f"items by index; got {name}")


def test_weight_data_may_be_another_part_and_not_the_same():
    whole = data(40)
    for role in ("dataset", "validation"):
        for rows, overlaps in ((range(20, 40), False), (range(19, 40), True)):
            parts = {"dataset": at(whole, range(20)), "validation": at(whole, range(20))}
            parts[role] = DataLoader(whole, sampler=SubsetRandomSampler(range(20)))
            run = trainer(weighting=ValidationLossTrend(3, 1))

            def fit(run=run, parts=parts, rows=rows):
                validation = parts["validation"]
                return run.fit(
                    parts["dataset"], 1, 8, validation=validation, weight_data=Subset(whole, rows)
                )

            if overlaps:
                message_of(fit, ValueError, f"other data than {role}; got the same rows")
            else:
                assert fit()


def test_samples_are_a_data_set_to_torch_itself():
    whole = data()
    for given in (whole, Subset(whole, range(37)), random_split(whole, [37])[0]):
        x, labels = zip(*DataLoader(given, 8), strict=True)
        assert len(x) == 5 and sum(map(len, x)) == 37 and set(labels[0]) == {"kind", "flags"}
    x, labels = zip(*DataLoader(whole, 8), strict=True)
    assert torch.equal(torch.cat(x), whole.inputs)
    assert torch.equal(torch.cat([part["kind"] for part in labels]), whole.targets["kind"])
    assert torch.equal(pickle.loads(pickle.dumps(whole)).inputs, whole.inputs)


def test_a_collate_function_is_used_for_samples_too():
    def collate(items):
        calls.append(len(items))
        return default_collate(items)

    calls, whole = [], data()
    run = trainer()
    expected = run.evaluate(whole, 10)
    assert run.evaluate(DataLoader(whole, collate_fn=collate), 10) == expected
    assert calls == [2, 10, 10, 10, 7]


def test_samples_are_read_a_batch_at_a_time(monkeypatch):
    calls = []
    usual = Samples.__getitem__
    monkeypatch.setattr(Samples, "__getitem__", lambda s, i: calls.append(i) or usual(s, i))
    trainer().evaluate(DataLoader(Subset(data(), ROWS), sampler=range(8)), 4)
    assert [len(call) for call in calls if torch.is_tensor(call) and call.dim()] == [2, 4, 4]


def test_tensors_of_torch_are_looked_at_before_training():
    x, labels = data().inputs, torch.zeros(37, dtype=torch.int64)
    labels[30] = 5
    run = trainer(learned=tasks()[0])
    message_of(
        lambda: run.fit(TensorDataset(x, labels), 1, 8), ValueError, "got 5 in row 31 of dataset"
    )
