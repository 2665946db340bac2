"""Properties of the trainer: what it learns from, what it leaves alone, and how it continues."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections import Counter, OrderedDict

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader, Dataset

import mtlfast.functional as MF
from mtlfast.train import MultiTaskModel, Samples, Stage, Task, Trainer, checkpoint
from mtlfast.train.data import endless, plan
from mtlfast.train.report import weights_sha256
from mtlfast.weighting import Fixed, ValidationLossTrend

BCE = "binary_cross_entropy_with_logits"
CPU = torch.device("cpu")


def network(dropout=0.0, norm=True, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.Dropout(dropout))
    return MultiTaskModel(backbone, {"kind": nn.Linear(8, 3), "flags": nn.Linear(8, 2)})


def tasks(**options):
    return [
        Task("kind", output="kind", target="kind", loss="cross_entropy", metrics=["accuracy"]),
        Task(["a", "b"], output="flags", target="flags", loss=BCE, metrics=["auroc"], **options),
    ]


def data(rows=37, seed=0, missing=0.3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator)
    kind = (x[:, 0] > 0).long() + (x[:, 1] > 0)
    flags = torch.stack((x[:, 2] > 0, x[:, 3] > x[:, 4]), 1).to(torch.int8)
    hide = torch.rand(rows, 3, generator=generator) < missing
    return Samples(
        x, {"kind": kind.masked_fill(hide[:, 0], -1), "flags": flags.masked_fill(hide[:, 1:], -1)}
    )


def trainer(model=None, learned=None, optimizer=torch.optim.SGD, lr=0.1, **options):
    model = network() if model is None else model
    return Trainer(model, learned or tasks(), optimizer(model.parameters(), lr=lr), **options)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# What one step does


def test_training_equals_a_hand_written_loop_bit_for_bit():
    ours, theirs, samples = network(), network(), data()
    trainer(ours, seed=3).fit(samples, epochs=2, batch_size=8)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for epoch in range(2):
        for ((indices,),) in zip(plan(37, 8, seed=3, epoch=epoch), strict=True):
            x, y = samples[indices]
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
    counts = joint.counts({"y": flags}, [task])
    loss, _ = joint((x, {"y": flags}), [task], counts, joint.divisors(counts, 5))
    target = flags.float()
    every = F.binary_cross_entropy_with_logits(model(x)["y"], target, reduction="none")
    sums = torch.where(flags >= 0, every, 0).sum(0)
    torch.testing.assert_close(loss, (2 * sums / divisor).sum())


LOSSES = [
    ("cross_entropy", (6, 4), torch.tensor([0, 3, -1, 2, -1, 1])),
    ("cross_entropy", (6, 4), torch.softmax(torch.randn(6, 4), 1)),
    (BCE, (6, 1), torch.tensor([0, 1, -1, 1, -1, 0], dtype=torch.int8)),
    (functools.partial(MF.smooth_l1_loss, beta=0.5), (6, 4), torch.randn(6, 4)),
    ("huber_loss", (6,), torch.randn(6)),
    (lambda output, target: (output - target).abs(), (6, 1), torch.randn(6)),
]


@pytest.mark.parametrize("loss, shape, target", LOSSES)
def test_an_unlabelled_row_changes_neither_loss_nor_gradient_whatever_it_predicts(
    loss, shape, target
):
    task = Task("t", output="y", target="t", loss=loss)
    missing = torch.tensor([False, False, True, False, True, False])
    if target.is_floating_point():
        target = target.clone()
        target[missing] = math.nan
    output = torch.randn(shape)
    poisoned = output.clone()
    poisoned[missing] = math.nan
    poisoned.requires_grad_()
    total = task.sums({"y": poisoned}, {"t": target})
    total.sum().backward()
    torch.testing.assert_close(
        total.detach(), task.sums({"y": output[~missing]}, {"t": target[~missing]})
    )
    assert poisoned.grad[missing].count_nonzero() == 0
    assert poisoned.grad.isfinite().all()
    width = target[~missing].numel() if task.kind == "value" else 4
    assert task.counts({"t": target}).tolist() == [width]


def test_negative_integers_are_labels_of_a_regression():
    task = Task("t", output="y", target="t", loss="mse_loss")
    assert task.counts({"t": torch.tensor([-1, 0, 2])}).tolist() == [3]


def test_every_sample_is_read_once_an_epoch_in_an_order_of_its_own():
    def order(seed, epoch):
        return [i for step in plan(37, 8, seed=seed, epoch=epoch) for part in step for i in part]

    assert sorted(order(0, 0)) == list(range(37))
    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_the_stream_of_weight_data_goes_on_from_any_position_without_restart():
    samples = Samples(torch.arange(10), {})
    whole = endless(samples, 4, CPU, 0)
    first = [next(whole)[0].tolist() for _ in range(7)]
    rest = endless(samples, 4, CPU, 0, position=5)
    assert first[5:] == [next(rest)[0].tolist() for _ in range(2)]
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


def test_a_head_can_sit_on_an_intermediate_layer_and_auxiliary_heads_do_not_predict():
    backbone = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    model = MultiTaskModel(backbone, {"main": nn.Linear(2, 1), "early": ("0", nn.Linear(4, 1))})
    learned = [
        Task("main", output="main", target="t", loss="mse_loss"),
        Task("early", output="early", target="t", loss="mse_loss", weight=0.3, auxiliary=True),
    ]
    x = torch.randn(6, 5)
    torch.testing.assert_close(model(x)["early"], model.heads["early"](backbone[0](x)))
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(2 * x)["early"], model(2 * x)["early"])
    run = trainer(model, learned)
    run.fit(Samples(x, {"t": torch.randn(6)}), 1, 3)
    predicted = run.predict(Samples(x, {}))
    assert list(predicted) == ["main"] and predicted["main"].shape == (6, 1)


# How it continues


def interrupted_after(run, epochs):
    """Makes a trainer fail at the start of the epoch after ``epochs``, as if it were killed."""
    usual = run._epoch

    def epoch(dataset, number, *rest):
        if number == epochs:
            raise KeyboardInterrupt
        return usual(dataset, number, *rest)

    run._epoch = epoch
    return run


def full_run(output, lr=0.01):
    model = network(dropout=0.4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return Trainer(
        model,
        tasks(),
        optimizer,
        weighting=ValidationLossTrend(3, interval=4, momentum=0.5),
        scheduler=torch.optim.lr_scheduler.MultiStepLR(optimizer, [7, 7, 13]),
        accumulate=2,
        clip=1.0,
        output=output,
        seed=5,
    )


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


def test_resuming_starts_from_the_beginning_where_there_is_no_checkpoint(tmp_path):
    full_run(tmp_path).fit(data(), 1, 8, weight_data=data(20, seed=1), resume=True)


def test_resuming_another_run_says_in_one_line_what_differs(tmp_path):
    full_run(tmp_path).fit(data(), 1, 8, weight_data=data(20, seed=1))
    with pytest.raises(ValueError, match=r"another run: optimizer.lr was 0.01 and is 0.02\.$"):
        full_run(tmp_path, lr=0.02).fit(data(), 2, 8, weight_data=data(20, seed=1), resume=True)


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    given = {
        "tuple": (1, (2.5, None)),
        "keys": {1: torch.tensor(3), "1": torch.ones(2, dtype=torch.bfloat16), None: -math.inf},
        "counter": Counter([3, 3, 5]),
        "ordered": OrderedDict(b=True, a="text"),
        "list": [torch.arange(6).reshape(2, 3).T],
    }
    back = checkpoint.load(checkpoint.save(tmp_path, 7, given))
    assert repr(back) == repr(given)
    assert type(back["counter"]) is Counter and type(back["ordered"]) is OrderedDict


def test_a_checkpoint_refuses_what_it_could_not_give_back(tmp_path):
    with pytest.raises(TypeError, match="got set at optimizer/groups"):
        checkpoint.save(tmp_path, 0, {"optimizer": {"groups": {1, 2}}})
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"model": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"step-000000001\.safetensors is not a whole"):
        checkpoint.load(path)


def test_a_loss_that_is_not_finite_stops_the_run_by_name_and_is_never_saved(tmp_path):
    samples = data()
    samples.inputs[samples.targets["kind"] >= 0] = math.inf
    run = trainer(output=tmp_path)
    with pytest.raises(FloatingPointError, match="loss of task 'kind' became nan in epoch 1"):
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


def test_binary_metrics_see_probabilities_even_where_every_logit_lies_between_0_and_1():
    task = Task("t", output="y", target="t", loss=BCE, metrics=["accuracy"])
    output, target = torch.tensor([[0.2], [0.4]]), torch.tensor([1, 1])
    assert task.score({"y": output}, {"t": target})["t"]["metrics"] == {"accuracy": 1.0}


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
    (lambda: a_task(loss="hinge"), "got 'hinge'"),
    (lambda: a_task(normalizer="batch"), "normalizer must be"),
    (lambda: a_task(normalizer=0.0), "normalizer must be"),
    (lambda: a_task(weight=-1.0), "weight must be finite"),
    (lambda: a_task(metrics=["acuracy"]), "no metric 'acuracy' for a binary task"),
    (lambda: Task(["x", "x"], output="o", target="t", loss=BCE), "different names"),
    (lambda: Task(["x", "y"], output="o", target="t", loss="cross_entropy"), "is one task, not 2"),
    (lambda: MultiTaskModel(nn.Identity(), {}), "at least one head"),
    (lambda: MultiTaskModel(nn.Identity(), {"h": ("conv9", nn.Identity())}), "no layer 'conv9'"),
    (lambda: Samples(torch.ones(3), {"t": torch.ones(2)}), "'t' must have 3 rows; got 2"),
    (lambda: trainer(learned=[*tasks(), a_task(output="kin")]), r"has \['kind', 'flags'\]"),
    (lambda: trainer(learned=[*tasks(), *tasks()]), "different names"),
    (lambda: trainer(weighting=Fixed([1.0])), "must have 3 weights, one per task; got 1"),
    (lambda: trainer(precision="fp8"), "precision must be"),
    (lambda: trainer(accumulate=0), "accumulate must be at least 1"),
    (lambda: trainer(clip=0.0), "clip must be positive"),
    (lambda: trainer(seed=-1), "seed must not be negative"),
    (lambda: trainer(scheduler=another_scheduler()), "scheduler must be of this optimizer"),
    (lambda: trainer().fit(data(), 0, 8), "epochs, batch_size must be at least 1"),
    (lambda: trainer().fit(data(), 1, 9), "batch_size must leave more than 1 sample"),
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
    assert json.loads(json.dumps(full_run(None).settings()))["scheduler"] == "MultiStepLR"
