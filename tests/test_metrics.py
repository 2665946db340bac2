"""Properties of metrics: torchmetrics' numbers where they mean something, None elsewhere."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.classification import BinaryAUROC, BinaryF1Score, MulticlassAUROC
from torchmetrics.functional import classification, regression
from training import BCE, counts

from mtlfast.train import Task
from mtlfast.train.metrics import Measure

BOTH = {"auroc", "average_precision", "cohen_kappa", "eer", "logauc", "matthews_corrcoef"}
POSITIVES = {"f1_score", "jaccard_index", "precision", "recall"}
NEGATIVES = {"negative_predictive_value", "specificity"}
VARIANCE = {
    "concordance_corrcoef",
    "explained_variance",
    "kendall_rank_corrcoef",
    "pearson_corrcoef",
    "r2_score",
    "relative_squared_error",
    "spearman_corrcoef",
}


def usable(kind):
    """Returns the names in torchmetrics that a task of this kind takes."""
    found = []
    module = regression if kind == "value" else classification
    for name in sorted(set(module.__all__)):
        if kind == "value" or name.startswith(f"{kind}_"):
            try:
                found.append(Measure(name.removeprefix(f"{kind}_"), kind).name)
            except ValueError as error:
                assert "\n" not in str(error)
    return found


USABLE = {kind: usable(kind) for kind in ("binary", "multiclass", "value")}
PROBABILITIES = torch.tensor([0.1, 0.6, 0.45, 0.8, 0.3, 0.9], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 1, 0, 0])
CLASSES = torch.tensor([0, 1, 2, 1, 0, 2])
TABLE = torch.softmax(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double(), 1)


def task_of(metrics, loss=BCE, name="t"):
    return Task(name, output="y", target="t", loss=loss, metrics=metrics)


def score(task, output, target):
    """Returns the metrics of the (last) task."""
    found = counts(task, {"t": target}).tolist()
    scores = task.scores(output, target, [0.0] * len(found), found)
    return scores[task.names[-1]]["metrics"]


def test_what_is_listed_here_is_there():
    kinds = {"binary": BOTH | POSITIVES | NEGATIVES, "value": VARIANCE}
    kinds["multiclass"] = kinds["binary"]
    common = {"accuracy", "calibration_error", "hinge_loss", "hamming_distance"}
    assert all(names <= set(USABLE[kind]) for kind, names in kinds.items())
    assert common <= set(USABLE["binary"]) and common <= set(USABLE["multiclass"])
    assert {"mean_absolute_error", "mean_squared_error"} <= set(USABLE["value"])


@pytest.mark.parametrize("name", USABLE["binary"])
def test_a_binary_metric_is_torchmetrics_own(name):
    function = getattr(classification, f"binary_{name}")
    wanted = float(function(PROBABILITIES, LABELS))
    assert Measure(name, "binary")(PROBABILITIES, LABELS) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", USABLE["multiclass"])
def test_a_multi_class_metric_is_torchmetrics_own(name):
    function = getattr(classification, f"multiclass_{name}")
    options = {"accuracy": {"average": "micro"}, "eer": {"average": None}}.get(name, {})
    wanted = float(function(TABLE, CLASSES, num_classes=3, **options).mean())
    assert Measure(name, "multiclass")(TABLE, CLASSES) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("guess", [0.2, 0.8, None])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("name", USABLE["binary"])
def test_whether_a_binary_metric_is_defined_depends_on_the_labels_alone(name, label, guess):
    guesses = PROBABILITIES if guess is None else torch.full((6,), guess)
    value = Measure(name, "binary")(guesses, torch.full((6,), label))
    undefined = name in BOTH or name in (NEGATIVES if label else POSITIVES)
    assert (value is None) == undefined
    assert value is None or math.isfinite(value)


@pytest.mark.parametrize("labels", [[0] * 6, [0, 1, 0, 1, 1, 0], [2]])
@pytest.mark.parametrize("name", USABLE["multiclass"])
def test_a_multi_class_metric_with_absent_classes_is_defined_or_none(name, labels):
    value = Measure(name, "multiclass")(TABLE[: len(labels)], torch.tensor(labels))
    if name in BOTH | NEGATIVES:
        assert (value is None) == (len(set(labels)) == 1)
    else:
        assert math.isfinite(value)


@pytest.mark.parametrize("labels", [[1.0] * 6, [1.0], [0.5, 2.0, 1.0, 3.0, 0.25, 1.5]])
@pytest.mark.parametrize("name", USABLE["value"])
def test_a_metric_of_values_is_defined_or_none(name, labels):
    value = Measure(name, "value")(1 + PROBABILITIES[: len(labels)].float(), torch.tensor(labels))
    assert (value is None) == (name in VARIANCE and len(set(labels)) == 1)


@pytest.mark.parametrize(
    "name, reference", [("auroc", roc_auc_score), ("average_precision", average_precision_score)]
)
def test_a_ranking_is_averaged_over_the_classes_that_occur(name, reference):
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    wanted = sum(reference(labels == c, TABLE[:, c]) for c in (0, 1)) / 2
    function = getattr(classification, f"multiclass_{name}")
    kinds = [name, functools.partial(function, num_classes=3), MulticlassAUROC(num_classes=3)]
    for metric in kinds if name == "auroc" else kinds[:2]:
        assert Measure(metric, "multiclass")(TABLE, labels) == pytest.approx(wanted, abs=1e-6)
    weighted = functools.partial(function, num_classes=3, average="weighted")
    assert Measure(weighted, "multiclass")(TABLE, labels) == pytest.approx(wanted, abs=1e-6)


def test_binary_metrics_see_probabilities_even_where_every_logit_lies_between_0_and_1():
    output, target = torch.tensor([[0.2], [0.4]]), torch.tensor([1, 1])
    assert score(task_of(["accuracy"]), output, target) == {"accuracy": 1.0}


def test_confident_logits_are_not_taken_for_ties():
    output, target = torch.tensor([20.0, 25.0, 30.0, -120.0]), torch.tensor([0, 1, 1, 0])
    assert score(task_of(["auroc"]), output, target) == {"auroc": 1.0}


def test_metrics_see_labelled_predictions_alone():
    seen = []

    def keep(prediction, target):
        seen.append((prediction, target))
        return 0.0

    nan, x = math.nan, torch.randn(4, 2)
    flags = torch.tensor([[1.0, nan], [0.0, 0.7], [nan, 0.0], [1.0, 0.2]])
    score(task_of([keep], name=["a", "b"]), x, flags)
    score(task_of([keep], "cross_entropy"), x, torch.tensor([1, -1, 0, -1]))
    score(task_of([keep], "cross_entropy"), x, flags)
    score(task_of([keep], "mse_loss"), x[:, 0], flags[:, 1])
    score(task_of([keep], "batch_triplet_loss"), x, torch.tensor([1, -1, 0, -1]))
    wanted = [
        (torch.sigmoid(x[[0, 1, 3], 0].double()), [1, 0, 1]),
        (torch.sigmoid(x[[1, 2, 3], 1].double()), [1, 0, 0]),
        (torch.softmax(x[[0, 2]].double(), 1), [1, 0]),
        (torch.softmax(x[[1, 3]].double(), 1), [1, 0]),
        (x[1:, 0], [0.7, 0.0, 0.2]),
        (x[[0, 2]], [1, 0]),
    ]
    assert len(seen) == len(wanted)
    for (prediction, target), (guess, truth) in zip(seen, wanted, strict=True):
        torch.testing.assert_close(prediction, guess)
        torch.testing.assert_close(target, torch.tensor(truth))


def test_pixels_are_scored_one_by_one():
    output, target = torch.randn(2, 3, 4, 4), torch.randint(-1, 3, (2, 4, 4))
    known = target >= 0
    right = (output.argmax(1) == target)[known].float().mean()
    got = score(task_of(["accuracy"], "cross_entropy"), output, target)
    assert got["accuracy"] == pytest.approx(float(right))


@pytest.mark.parametrize(
    "metric", [BinaryF1Score(), torchmetrics.F1Score(task="binary"), torchmetrics.MeanMetric()]
)
def test_a_metric_object_stays_as_it_is(metric):
    metric.update(*[torch.tensor([0.9, 0.1]), torch.tensor([0, 1])])
    before = metric.compute()
    ours = Measure(metric, "binary")
    assert ours(PROBABILITIES, LABELS) == ours(PROBABILITIES, LABELS)
    assert torch.equal(metric.compute(), before) and metric.update_count == 1
    fresh = metric.clone()
    fresh.reset()
    fresh.update(PROBABILITIES, LABELS)
    assert ours(PROBABILITIES, LABELS) == pytest.approx(float(fresh.compute()))


@pytest.mark.parametrize(
    "metric",
    [
        BinaryAUROC(),
        functools.partial(classification.binary_auroc, max_fpr=None),
        functools.partial(torchmetrics.functional.auroc, task="binary"),
    ],
)
def test_metrics_of_torchmetrics_in_any_form_keep_its_rules(metric):
    ours = Measure(metric, "binary")
    assert ours(PROBABILITIES, torch.ones(6).long()) is None
    assert ours(PROBABILITIES, LABELS) == Measure("auroc", "binary")(PROBABILITIES, LABELS)


def test_nothing_labelled_or_no_number_predicted_gives_none():
    task = task_of(["accuracy", "f1_score", lambda x, y: 1.0], loss=F.binary_cross_entropy)
    assert set(score(task, torch.rand(3), torch.full((3,), -1)).values()) == {None}
    assert set(score(task, torch.full((3,), math.nan), torch.ones(3).long()).values()) == {None}


def test_scores_hold_the_mean_loss_and_the_count_and_metrics_only_with_an_output():
    task = task_of(["accuracy"], name=["a", "b"])
    target = torch.tensor([[1, -1], [0, -1]])
    scores = task.scores(torch.zeros(2, 2), target, [3.0, 0.0], [2, 0])
    assert scores == {
        "a": {"loss": 1.5, "count": 2, "metrics": {"accuracy": 0.5}},
        "b": {"loss": None, "count": 0, "metrics": {"accuracy": None}},
    }
    assert task.scores(None, target, [3.0, 0.0], [2, 0])["a"]["metrics"] == {}


BAD = [
    (lambda: task_of(["acuracy"]), "no metric 'acuracy' for a binary task"),
    (lambda: task_of(["auroc"], "mse_loss"), "no metric 'auroc' for a value task"),
    (lambda: task_of(["auroc", "auroc"]), "metrics must have different names; got auroc, auroc"),
    (lambda: task_of([lambda x, y: 0, lambda x, y: 1]), "metrics must have different names"),
    (lambda: task_of(["fbeta_score"]), r"'fbeta_score' needs beta; pass functools.partial\("),
    (lambda: task_of(["roc"]), "'roc' must give one number; got tuple"),
    (lambda: task_of(["confusion_matrix"], "cross_entropy"), r"one number; got \(2, 2\)"),
    (lambda: task_of(["kl_divergence"], "mse_loss"), "'kl_divergence' does not fit"),
    (lambda: score(task_of([lambda x, y: x]), torch.zeros(2), torch.ones(2)), r"got \(2,\)"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
