"""Stages, the rule that stops a task, the best evaluation and early stopping."""

from __future__ import annotations

import json
import math

import pytest
from messages import message_of

from mtlfast.train.rules import Best, EarlyStopping, quantity
from mtlfast.train.schedule import Stage, TaskStopping, active_tasks, check_stages, stop_ratio
from mtlfast.train.tasks import Task

BCE = "binary_cross_entropy_with_logits"
FALLING = [1, 0.5, 0.25, 0.125, 0.0625]
SLOW = [0.2, 0.15, 0.14, 0.139, 0.1385]


def tasks():
    options = {"target": "y", "loss": BCE}
    return [
        Task("main", output="main", metrics=["accuracy"], **options),
        Task("pose", output="pose", auxiliary=True, weight=0.5, **options),
        Task(["smile", "glasses"], output="both", auxiliary=True, **options),
    ]


def losses(**values):
    return {name: {"loss": value} for name, value in values.items()}


def evaluations(rule, training, validation=0.28, names=("smile", "glasses", "pose", "main")):
    """Feeds a rule the same losses for all tasks, and returns what it stopped in each epoch."""
    return [
        rule.update(
            tasks(),
            losses(**dict.fromkeys(names, value)),
            losses(**dict.fromkeys(names, validation)),
            epoch,
        )
        for epoch, value in enumerate(training, 1)
    ]


# The ratio


@pytest.mark.parametrize("errors, ratio", [(FALLING, 6.3273), (SLOW, 10.5950)])
def test_the_ratio_has_the_published_formula_s_values(errors, ratio):
    assert stop_ratio(errors, 0.28, 1.0) == pytest.approx(ratio, abs=5e-5)


def test_the_ratio_is_divided_by_the_task_s_weight():
    assert stop_ratio(SLOW, 0.28, 0.5) == pytest.approx(2 * stop_ratio(SLOW, 0.28, 1.0))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_the_ratio_does_not_depend_on_the_unit_of_the_errors(scale):
    scaled = stop_ratio([scale * error for error in SLOW], scale * 0.28, 1.0)
    assert scaled == pytest.approx(stop_ratio(SLOW, 0.28, 1.0))


NOT_CONVERGING = {
    "flat": [0.1] * 10,
    "flat, of any length": [0.3] * 7,
    "falling evenly": [5, 4, 3, 2, 1],
    "falling ever faster": [1, 0.95, 0.9, 0.8, 0.5],
    "all zero": [0, 0, 0],
}


@pytest.mark.parametrize("errors", NOT_CONVERGING.values(), ids=NOT_CONVERGING)
@pytest.mark.parametrize("validation", [0.0, 0.28, 9.0])
def test_a_window_that_does_not_converge_never_speaks_for_stopping(errors, validation):
    assert stop_ratio(errors, validation, 1.0) == 0


def test_a_validation_error_no_larger_than_the_training_error_never_speaks_for_stopping():
    assert stop_ratio(SLOW, 0.1, 1.0) < 0
    assert stop_ratio(SLOW, min(SLOW), 1.0) == 0


def test_nothing_left_to_learn_and_a_weight_of_zero_give_infinity():
    assert stop_ratio([1, 0.1, 0], 0.5, 1.0) == math.inf
    assert stop_ratio(SLOW, 0.28, 0.0) == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite_decide_nothing_in_training_errors(bad):
    assert not stop_ratio([1, bad, 0.5, 0.4, 0.39], 0.6, 1.0) > 0


# Task-wise stopping


def test_a_task_stops_at_the_first_full_window_above_the_threshold_and_stays_stopped():
    rule = TaskStopping(["pose"], threshold=20)
    assert evaluations(rule, [*SLOW, *SLOW]) == [[], [], [], [], ["pose"], [], [], [], [], []]
    assert rule.stopped == {"pose": 5}


def test_the_threshold_decides_with_the_task_s_own_weight():
    assert evaluations(TaskStopping(["pose"], threshold=21.1), SLOW)[-1] == ["pose"]
    assert evaluations(TaskStopping(["pose"], threshold=21.2), SLOW)[-1] == []


def test_by_default_the_auxiliary_tasks_may_stop_and_the_main_task_never_does():
    rule = TaskStopping(threshold=1)
    assert evaluations(rule, SLOW)[-1] == ["pose", "smile"]
    assert not [names for names in evaluations(rule, SLOW * 3) if names]


def test_only_the_last_evaluations_count():
    rule = TaskStopping(["pose"], threshold=20)
    assert evaluations(rule, [50, 10, 20, *SLOW])[-1] == ["pose"]


def test_a_group_stops_as_a_whole_by_the_mean_of_its_members():
    rule, decided = TaskStopping(["smile", "glasses"], threshold=10.5), []
    for epoch, error in enumerate(SLOW, 1):
        train = losses(smile=error - 0.05, glasses=error + 0.05)
        decided += rule.update(tasks(), train, losses(smile=0.5, glasses=0.06), epoch)
    assert decided == ["smile"] and rule.stopped == {"smile": 5}


def test_a_member_without_labels_is_left_out_of_its_group_s_means():
    rule, decided = TaskStopping(["smile", "glasses"], threshold=10.5), []
    for epoch, error in enumerate(SLOW, 1):
        train = losses(smile=error, glasses=None if epoch == 2 else 0.001)
        decided += rule.update(tasks(), train, losses(smile=0.28, glasses=0.0), epoch)
    assert decided == ["smile"]


@pytest.mark.parametrize("training, validation", [([*SLOW[:4], None], 0.28), (SLOW, None)])
def test_without_a_loss_there_is_no_decision(training, validation):
    rule = TaskStopping(["pose"], threshold=1)
    assert evaluations(rule, training, validation)[-1] == []
    assert ["pose"] in evaluations(rule, SLOW)


def test_a_task_outside_the_stage_needs_a_full_window_again():
    rule = TaskStopping(["pose"], threshold=1)
    decisions = evaluations(rule, [0.5, 0.4, None, *SLOW])
    assert decisions[:-1] == [[]] * 7 and decisions[-1] == ["pose"]


def test_without_validation_data_nothing_stops():
    rule = TaskStopping(["pose"], threshold=1)
    for epoch, error in enumerate(SLOW, 1):
        assert rule.update(tasks(), losses(pose=error), {}, epoch) == []


def test_a_negative_loss_is_refused_by_name():
    rule = TaskStopping(["pose"], window=3, threshold=1)
    message_of(lambda: evaluations(rule, [0.1, 0.0, -0.1]), ValueError, "'pose' has -0.1")


@pytest.mark.parametrize("cut", range(7))
def test_a_rule_goes_on_from_its_state_as_if_it_had_not_been_interrupted(cut):
    training = [1, 0.5, *SLOW]
    whole, first, second = (TaskStopping(threshold=10) for _ in range(3))
    expected = evaluations(whole, training)
    decided = evaluations(first, training[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert decided + evaluations(second, training[cut:]) == expected and expected[-1]
    assert list(second.stopped) == list(whole.stopped)


# Stages


def test_stopped_tasks_are_left_out_until_none_is_left():
    stages = [Stage(["pose"], 2), Stage(["main", "pose"], 3)]

    def names(epoch, *stopped):
        return [task.names[0] for task in active_tasks(stages, tasks(), epoch, stopped)]

    assert names(0) == names(1) == ["pose"] and names(2) == ["main", "pose"]
    assert names(2, "pose") == ["main"] and names(0, "pose") == []
    assert names(4, "pose", "main") == []


def test_without_stages_every_task_that_is_not_stopped_is_trained():
    every = tasks()
    assert active_tasks([], every, 7) == active_tasks([], every, 0, ["other"]) == every
    assert active_tasks([], every, 7, {"smile"}) == every[:2]


# The best evaluation

SCORES = {
    "a": {"loss": 1.0, "count": 3, "metrics": {"accuracy": 0.5, "mean_absolute_error": None}},
    "b": {"loss": 2.0, "count": 3, "metrics": {"accuracy": None}},
    "odd/c": {"loss": None, "count": 0, "metrics": {"accuracy": 1.0}},
}
QUANTITIES = [
    ("loss", 1.5),
    ("accuracy", 0.75),
    ("a/loss", 1.0),
    ("odd/c/accuracy", 1.0),
    ("odd/c/loss", None),
    ("mean_absolute_error", None),
]


@pytest.mark.parametrize("name, value", QUANTITIES, ids=[name for name, _ in QUANTITIES])
def test_a_quantity_is_one_task_s_or_the_mean_over_those_that_have_it(name, value):
    assert quantity(SCORES, name) == value


MODES = {"loss": "min", "digit/loss": "min", "accuracy": "max", "loss_type/auroc": "max"}
MODES |= {"mean_absolute_error": "min", "a/hamming_distance": "min"}


@pytest.mark.parametrize("metric, mode", MODES.items(), ids=MODES)
def test_losses_errors_and_distances_are_minimised_and_all_else_maximised(metric, mode):
    assert Best(metric).mode == mode and Best(metric, mode="max").mode == "max"


def scores(*values, key="loss"):
    return [{"a": {"loss": value, "metrics": {"accuracy": value}}} for value in values]


def test_the_best_is_the_first_of_equals_and_never_one_that_is_not_defined():
    best = Best("loss")
    values = scores(None, math.nan, math.inf, 3.0, 2.0, 2.0, 2.5, None, 1.0)
    updates = [best.update(score, epoch) for epoch, score in enumerate(values, 1)]
    assert updates == [value in (4, 5, 9) for value in range(1, 10)]
    assert best.state_dict() == {"metric": "loss", "value": 1.0, "epoch": 9}


def test_a_smaller_change_than_the_least_is_no_improvement_but_adds_up():
    best = Best("accuracy", min_change=0.1)
    assert [best.update(score, 0) for score in scores(0.5, 0.59, 0.61)] == [True, False, True]


@pytest.mark.parametrize(
    "values, epochs",
    [
        ([3, 2, 1, 2, 2, 0.5], 5),
        ([3, None, None, None, 2, 3], None),
        ([3, math.nan, math.nan], 3),
        ([3, 4, 2, 4, 1], None),
    ],
)
def test_a_run_ends_after_as_many_evaluations_without_improvement_as_there_is_patience(
    values, epochs
):
    rule, ended = EarlyStopping(2), None
    for epoch, score in enumerate(scores(*values), 1):
        again = EarlyStopping(2)
        again.load_state_dict(json.loads(json.dumps(rule.state_dict())))
        rule = again
        ended = ended or (epoch if rule.stop(score, epoch) else None)
    assert ended == epochs


# Bad input

BAD = [
    (lambda: TaskStopping(threshold=0), "threshold must be positive; got 0"),
    (lambda: TaskStopping(threshold=math.nan), "threshold must be positive; got nan"),
    (lambda: TaskStopping(window=2, threshold=1), "window must be at least 3; got 2"),
    (lambda: TaskStopping(["hat"], threshold=1).watched(tasks()), r"tasks of \['main'.*\['hat'\]"),
    (lambda: TaskStopping(["smile"], threshold=1).watched(tasks()), "must name all of"),
    (lambda: TaskStopping([], threshold=1).watched(tasks()), "must name tasks.*got none"),
    (lambda: TaskStopping(threshold=1).watched(tasks()[:1]), "or a task be auxiliary; got none"),
    (lambda: stop_ratio([], 1.0, 1.0), "must not be empty or negative"),
    (lambda: stop_ratio([1, -1, 1], 1.0, 1.0), r"negative; got \[1, -1, 1\]"),
    (lambda: check_stages([Stage(["hat"], 1)], tasks(), 1), "stage 1 must name tasks of"),
    (lambda: Stage(["pose"], 0), "epochs must be at least 1; got 0."),
    (lambda: check_stages([Stage(["smile"], 1)], tasks(), 1), "must name all of"),
    (lambda: check_stages([Stage(["pose"], 1)], tasks(), 2), "must last 2 epochs"),
    (lambda: quantity(SCORES, "f1"), r"one of loss, a/loss, accuracy.*; got 'f1'"),
    (lambda: Best("auroc").check(tasks()), "main/accuracy.*; got 'auroc'"),
    (lambda: EarlyStopping(1, "hat/loss").check(tasks()), "got 'hat/loss'"),
    (lambda: Best("loss", mode="least"), "mode must be 'min', 'max' or None; got 'least'"),
    (lambda: Best("loss", min_change=-1), "min_change must be finite and not negative; got -1"),
    (lambda: EarlyStopping(0), "patience must be at least 1; got 0"),
    (lambda: Best().load_state_dict(Best("accuracy").state_dict()), "metric must be 'loss'"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_one_line(call, message):
    message_of(call, ValueError, message)


def test_what_the_tasks_give_passes_the_check():
    for name in ("loss", "accuracy", "main/accuracy", "glasses/loss"):
        EarlyStopping(1, name).check(tasks())


def test_the_rules_show_their_settings():
    assert repr(TaskStopping(threshold=2)) == "TaskStopping(tasks=None, window=5, threshold=2)"
    assert repr(EarlyStopping(3)) == "EarlyStopping(3, Best('loss', mode='min'))"
