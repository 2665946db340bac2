"""Properties of a run: how it continues, what it reports, and what it refuses."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter, OrderedDict

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from training import BCE, data, full_run, network, same, state, tasks, trainer

from mtlfast.train import Samples, Stage, Task, checkpoint
from mtlfast.train.report.summary import weights_sha256
from mtlfast.weighting import Fixed, ValidationLossTrend

# How it continues


def interrupted_after(run, epochs):
    """Makes a trainer fail at the start of the epoch after ``epochs``, as if it were killed."""
    usual = run._epoch

    def epoch(data, steps, number, *rest):
        if number == epochs:
            raise KeyboardInterrupt
        return usual(data, steps, number, *rest)

    run._epoch = epoch
    return run


def test_a_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(tmp_path):
    options = {"validation": data(9, seed=2), "weight_data": data(20, seed=1)}
    whole = full_run(tmp_path / "whole")
    history = whole.fit(data(), 5, 8, **options)
    with pytest.raises(KeyboardInterrupt):
        interrupted_after(full_run(tmp_path / "cut"), 2).fit(data(), 5, 8, **options)
    resumed = full_run(tmp_path / "cut")
    torch.randn(100)
    assert resumed.fit(data(), 5, 8, **options, resume=True) == history
    assert same(state(whole.model), state(resumed.model))
    assert same(state(whole.weighting), state(resumed.weighting))
    assert weights_sha256(whole.model) == weights_sha256(resumed.model)
    names = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert names == ["checkpoints", "history.csv", "losses.png", "weights.png"]
    assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 2


@pytest.mark.usefixtures("no_pictures")
def test_a_run_resumes_whose_loss_holds_what_cannot_be_copied(tmp_path):
    class Locked:
        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, output, target):
            with self.lock:
                return (output - target.float()) ** 2

    def run(epochs, resume):
        learned = Task(["a", "b"], output="flags", target="flags", loss=Locked())
        made = trainer(learned=learned, output=tmp_path)
        return made.fit(data(), epochs, 8, resume=resume)

    first = run(1, False)
    assert run(2, True)[: len(first)] == first


@pytest.mark.usefixtures("no_pictures")
def test_resuming_starts_from_the_beginning_where_there_is_no_checkpoint(tmp_path):
    with pytest.warns(UserWarning, match="checkpoints holds no checkpoint: the run starts afresh."):
        full_run(tmp_path).fit(data(), 2, 8, weight_data=data(20, seed=1), resume=True)


@pytest.mark.usefixtures("no_pictures")
def test_resuming_another_run_says_in_one_line_what_differs(tmp_path):
    full_run(tmp_path).fit(data(), 2, 8, weight_data=data(20, seed=1))
    with pytest.raises(
        ValueError, match=r"another run: optimizer.groups\[0\].lr was 0.01 and is 0.02\.$"
    ):
        full_run(tmp_path, lr=0.02).fit(data(), 2, 8, weight_data=data(20, seed=1), resume=True)


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    given = {
        "tuple": (1, (2.5, None)),
        "keys": {1: torch.tensor(3), "1": torch.ones(2, dtype=torch.bfloat16), None: -math.inf},
        "counter": Counter([3, 3, 5]),
        "ordered": OrderedDict(b=True, a="text"),
        "list": [torch.arange(6).reshape(2, 3).T],
    }
    checkpoint.save(tmp_path / "file", given)
    back = checkpoint.load(tmp_path / "file")
    assert repr(back) == repr(given)
    assert type(back["counter"]) is Counter and type(back["ordered"]) is OrderedDict


def test_a_checkpoint_refuses_what_it_could_not_give_back(tmp_path):
    with pytest.raises(TypeError, match="got set at optimizer/groups"):
        checkpoint.save(tmp_path / "file", {"optimizer": {"groups": {1, 2}}})
    assert not list(tmp_path.iterdir())


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[-50:]
    else:
        content[-50] ^= 1
    path.write_bytes(content)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("how", ["cut", "one bit"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(how, tmp_path):
    whole, cut = full_run(tmp_path / "whole"), full_run(tmp_path / "cut")
    for run in (whole, cut):
        run.fit(data(), 4, 8, weight_data=data(20, seed=1))
    damage(checkpoint.newest(tmp_path / "cut" / "checkpoints"), how)
    resumed = full_run(tmp_path / "cut")
    with pytest.warns(UserWarning, match=r"step-000000020\.safetensors is not a whole.*before it"):
        resumed.fit(data(), 4, 8, weight_data=data(20, seed=1), resume=True)
    assert same(state(whole.model), state(resumed.model))


@pytest.mark.usefixtures("no_pictures")
def test_a_run_of_which_all_checkpoints_are_damaged_is_not_started_anew(tmp_path):
    full_run(tmp_path).fit(data(), 2, 8, weight_data=data(20, seed=1))
    for path in (tmp_path / "checkpoints").iterdir():
        damage(path, "cut")
    with (
        pytest.warns(UserWarning, match="is not a whole"),
        pytest.raises(ValueError, match="must hold a whole checkpoint; all 2 are damaged"),
    ):
        full_run(tmp_path).fit(data(), 2, 8, weight_data=data(20, seed=1), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_by_name_and_is_never_saved(tmp_path):
    samples = data()
    samples.inputs[samples.targets["kind"] >= 0] = math.inf
    run = trainer(output=tmp_path)
    with pytest.raises(
        FloatingPointError, match="loss of task 'kind' became nan by step 5; there is no checkpoint"
    ):
        run.fit(samples, 1, 8)
    assert not (tmp_path / "checkpoints").exists()


# What it reports


def test_scores_count_labels_and_leave_out_what_is_not_defined():
    samples = data(20)
    samples.targets["flags"][:, 0] = 1
    samples.targets["flags"][:, 1] = -1
    run = trainer()
    scores = run.evaluate(samples, batch_size=7)
    assert scores["a"]["metrics"] == {"auroc": None} and scores["a"]["count"] == 20
    assert scores["b"] == {"loss": None, "count": 0, "metrics": {"auroc": None}}
    known = samples.targets["kind"] >= 0
    outputs = run.predict(samples)["kind"][known]
    right = outputs.argmax(1) == samples.targets["kind"][known]
    assert scores["kind"]["metrics"]["accuracy"] == pytest.approx(float(right.float().mean()))
    expected = F.cross_entropy(outputs, samples.targets["kind"][known])
    assert scores["kind"]["loss"] == pytest.approx(float(expected))


def test_training_in_bfloat16_learns():
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        run = trainer(precision="bf16", lr=0.3)
        history = run.fit(data(missing=0.1), 6, 8)
        assert history[-1]["train_loss"] < 0.8 * history[2]["train_loss"]
        assert run.predict(data())["kind"].dtype == torch.float32
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


# Bad input


def lacking(name):
    samples = data()
    del samples.targets[name]
    return samples


def unlabelled(name):
    samples = data()
    samples.targets[name].fill_(-1)
    return samples


def wide():
    samples = data()
    samples.targets["flags"] = torch.zeros(37, 3, dtype=torch.int8)
    return samples


def a_task(**options):
    return Task("t", **{"output": "kind", "target": "kind", "loss": BCE} | options)


def trending(**options):
    return trainer(weighting=ValidationLossTrend(3), **options)


def another_scheduler():
    optimizer = torch.optim.SGD(network().parameters())
    return torch.optim.lr_scheduler.StepLR(optimizer, 1)


BAD = [
    (lambda: Samples(torch.ones(3), {"t": torch.ones(2)}), "'t' must have 3 rows; got 2"),
    (lambda: trainer(learned=[*tasks(), a_task(output="kin")]), r"has \['kind', 'flags'\]"),
    (lambda: trainer(learned=[*tasks(), *tasks()]), "different names"),
    (lambda: trainer(weighting=Fixed([1.0])), "must have 3 weights, one per task; got 1"),
    (lambda: trainer(precision="fp8"), "precision must be"),
    (lambda: trainer(accumulate=0), "accumulate must be at least 1"),
    (lambda: trainer(clip=0.0), "clip must be positive"),
    (lambda: trainer(seed=-1), "seed must not be negative"),
    (lambda: trainer(scheduler=another_scheduler()), "scheduler must be of this optimizer"),
    (lambda: trainer().fit(data(), 0, 8), "epochs must be at least 1; got 0"),
    (lambda: trainer().fit(data(), 1, -8), "batch_size must be at least 1; got -8"),
    (lambda: trainer().fit(data(), 1, 9), "batch_size must leave each process more than 1 sample"),
    (lambda: trainer().fit(Samples(torch.ones(0), {}), 1, 8), "at least one sample"),
    (lambda: trainer().fit(torch.ones(8, 5), 1, 8), r"must yield \(input, {target name: labels}\)"),
    (lambda: trainer().fit(lacking("flags"), 1, 8), r"no labels 'flags' for Task\(a, b\)"),
    (lambda: trainer().fit(unlabelled("kind"), 1, 8), "no labelled sample of task 'kind'"),
    (lambda: trainer().fit(wide(), 1, 8), "must hold 2 labels a sample"),
    (lambda: trainer().fit(data(), 1, 8, resume=True), "resume needs"),
    (lambda: trending().fit(data(), 1, 8), "learns from weight_data"),
    (lambda: trending().fit(data(), 1, 8, weight_data=unlabelled("kind")), "weight_data has no"),
    (lambda: trainer(stages=[Stage(["c"], 1)]).fit(data(), 1, 8), "stage 1 must name tasks"),
    (lambda: trainer(stages=[Stage(["a"], 1)]).fit(data(), 1, 8), "must name all of"),
    (lambda: trainer(stages=[Stage(["kind"], 1)]).fit(data(), 2, 8), "must last 2 epochs"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_half_precision_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'fp16' needs a GPU"):
        trainer(precision="fp16")


def test_settings_of_a_run_can_be_written_as_json():
    settings = full_run(None).run.settings
    assert json.loads(json.dumps(settings))["scheduler"] == "MultiStepLR"
