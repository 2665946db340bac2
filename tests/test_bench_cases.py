"""The table of cases of mtlfast bench: every loss is in it, what is chosen of it, and its goals."""

from __future__ import annotations

import dataclasses
import inspect

import bench_losses
import bench_training
import pytest
import scaling
import torch

import mtlfast.functional as MF
from mtlfast.bench import goals
from mtlfast.bench.case import PASSES, Run
from mtlfast.bench.cases import CASES, LOSSES, chosen
from mtlfast.bench.embedding_cases import others
from mtlfast.bench.pointwise_cases import pointwise
from mtlfast.bench.prepared import Prepared

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_public_loss_is_in_the_table():
    public = [getattr(MF, name) for name in MF.__all__ if name.islower()]
    losses = {f.__name__ for f in public if "reduction" in inspect.signature(f).parameters}
    assert losses == set(LOSSES)
    assert losses == {case.loss for case in chosen("cpu", quick=True)}


def test_case_names_tell_cases_apart_and_goals_name_cases():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(goals.ON_CPU) <= set(names)


@pytest.mark.parametrize(
    "like, kinds",
    [
        ("binary_cross_entropy_with_logits", [torch.float32, torch.int8]),
        ("smooth_l1_loss", [torch.float32, torch.float32]),
        ("contrastive_loss", [torch.float32, torch.float32, torch.bool]),
        ("triplet_margin_loss", [torch.float32] * 3),
        ("hierarchical_triplet_loss", [torch.float32] * 4),
        ("batch_contrastive_loss", [torch.float32, torch.int64]),
    ],
)
def test_a_new_loss_of_a_family_is_benched_by_its_record_and_signature(like, kinds, monkeypatch):
    record = MF.LOSSES[like]
    assert not list(others(record.family, CASES))
    monkeypatch.setitem(MF.LOSSES, "new_loss", dataclasses.replace(record, name="new_loss"))
    monkeypatch.setattr(MF, "new_loss", getattr(MF, like), raising=False)
    if record.family == "pointwise":
        made = pointwise("new_loss", 12, 5, quick=True)
    else:
        (made,) = others(record.family, CASES)
    case = dataclasses.replace(made, rows=12, width=5)
    assert case.loss == "new_loss" and case.quick and case.family == record.family
    inputs = case.inputs("cpu")
    assert [tensor.dtype for tensor in inputs] == kinds
    missing = inputs[-1].isnan() if inputs[-1].is_floating_point() else inputs[-1] < 0
    assert missing.any() == (record.family == "pointwise")
    Prepared(case, "cpu").checked(Run("mtlfast", "call", PASSES[1]))


def test_losses_shapes_and_dtypes_choose():
    own = chosen("cpu", losses=["l1_loss"], shapes=[(7, 3), (5, 2)], dtypes=["bfloat16"])
    assert [(c.loss, c.shape, c.dtype) for c in own] == [
        ("l1_loss", "7x3", "bfloat16"),
        ("l1_loss", "5x2", "bfloat16"),
    ]
    forms = {case.what for case in chosen("cpu", losses=["batch_triplet_loss"], shapes=[(8, 2)])}
    assert forms == {f"batch_triplet_loss {mining}" for mining in ("all", "hard", "semihard")}
    assert not any(case.gpu_only for case in chosen("cpu"))
    assert {case.passes for case in chosen("cpu", quick=True, shapes=[(8, 2)])} == {PASSES[1:]}
    assert {case.family for case in chosen("cpu", shapes=[(8, 1)])} == {"pointwise"}
    assert {case.family for case in chosen("cpu", shapes=[(9000, 2)])} == {"pointwise", "rows"}
    assert chosen("cpu", losses=["batch_contrastive_loss"], shapes=[(9000, 2)])
    assert any(case.gpu_only for case in chosen("cuda"))


def test_goals_tell_what_was_reached_and_what_was_missed():
    case = "binary_cross_entropy_with_logits 256x40 float32 int8 targets"
    memory = {"peak_extra_bytes": 1, "gradient_bytes": 1, "family": "pointwise"}
    both = {"case": case, "passes": PASSES[1], "level": "call", "busy": False, **memory}
    ours, where = {**both, "who": "mtlfast", "median": 4e-5}, {**both, "who": "where"}
    counts, missed = goals.verdicts([ours, {**where, "median": 6e-5}], "cpu")
    assert "2 of 3 reached, 0 not judged" in counts
    assert missed == f"Goal missed: {case}, where 2x: 1.50x."
    assert goals.verdicts([ours, {**where, "median": 9e-5}], "cpu") == [
        "Goals (mtlfast/bench/goals.py): 3 of 3 reached, 0 not judged for load."
    ]
    busy = [ours, {**where, "median": 6e-5, "busy": True}]
    assert goals.verdicts(busy, "cpu")[0].endswith("2 of 3 reached, 1 not judged for load.")


def test_the_kernels_of_every_case_are_compared_with_those_saved():
    assert {case for case, _ in bench_losses.RUNS} == set(chosen(bench_losses.SETTINGS.device))
    levels = {(case.family, run.level) for case, run in bench_losses.RUNS}
    assert levels == {("pointwise", "op"), ("rows", "op"), ("inbatch", "call")}
    assert len(set(bench_losses.NAMES)) == len(bench_losses.RUNS)


def test_what_grows_with_the_batch_is_drawn(tmp_path, monkeypatch):
    grown = [case for case in CASES if case.what == scaling.GROWING]
    assert len({case.rows for case in grown}) > 4
    scaling.draw([(n, 1e-9 * n * n, 1000 * n) for n in (256, 512, 1024)], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_the_benches_of_training_say_what_they_found(monkeypatch):
    for name, few in {"ROUNDS": 1, "EPOCHS": 1, "ROWS": 512, "HIDDEN": 8}.items():
        monkeypatch.setattr(bench_training, name, few)
    assert "times as long; goal: at most 1.05" in bench_training.training_step()
    assert "us; goal: at most 50 us" in bench_training.weight_update()
