"""mtlfast bench: what it checks before timing, what it writes, and how it refuses bad input."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import sys

import pytest
import torch

import mtlfast.functional as MF
from mtlfast import cli
from mtlfast.bench import compare, measure, prepared, rivals, table
from mtlfast.bench.case import PASSES, NotRun, runs
from mtlfast.bench.cases import chosen
from mtlfast.bench.pointwise_cases import POINTWISE
from mtlfast.bench.prepared import TOLERANCE, Prepared
from mtlfast.ops import native

pytestmark = pytest.mark.usefixtures("one_thread")
QUICKLY = ["--threads", "1", "--seconds", "0.001"]
MSE = ["bench", "--loss", "mse_loss", "--shape", "33x5", *QUICKLY]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """The rival "compile" stays eager: the compiler takes seconds and is not what is tested."""
    monkeypatch.setattr(rivals, "compiled", lambda function: function)
    monkeypatch.setattr(measure, "copy_bandwidth", lambda device: 1e10)


def bench(tmp_path, capsys, *arguments, command=MSE):
    """Runs the command and returns what it printed and its bench.json."""
    assert cli.main([*command, "--output", str(tmp_path), *map(str, arguments)]) == 0
    return capsys.readouterr(), json.loads((tmp_path / "bench.json").read_text())


@pytest.mark.parametrize("before, after", [(70, 70), (70, 40), (40, 70)])
def test_gpu_memory_that_others_free_meanwhile_is_not_taken_off_the_peak(
    before, after, monkeypatch
):
    held = iter((before, after))
    monkeypatch.setattr(measure, "_held_on_gpu", lambda: next(held))
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 100)
    assert measure.peak_extra_bytes(lambda: None, "cuda") == 100 - min(before, after)


@pytest.mark.parametrize(
    "case",
    chosen("cpu", shapes=[(64, 12)], dtypes=["float32", "float64", "bfloat16"]),
    ids=lambda case: case.name.replace(" ", "-"),
)
def test_rivals_and_ours_agree_with_float64(case):
    made = Prepared(case, "cpu")
    for run in runs(case, "cpu"):
        try:
            steps = made.steps(run)
        except NotRun as reason:
            absent = native.PATH is None or case.dtype == "float64" or case.family == "inbatch"
            assert "not installed" in str(reason) or (absent and "no native ops" in str(reason))
            continue
        errors = made.errors(run, steps[0])
        assert errors and max(errors.values()) < TOLERANCE[case.dtype] * case.slack, (run, errors)


@pytest.mark.parametrize("loss", list(dict.fromkeys(case.loss for case in POINTWISE)))
def test_rivals_take_the_same_targets_for_missing_as_ours(loss):
    y = torch.tensor([[-2.0, -0.5, 0.0, 1.0, torch.nan]])
    x = torch.linspace(-1, 2, 5).reshape(1, 5)
    for function in rivals.FORMULAS.get(loss, {}).values():
        if function is not rivals.unmasked:
            ours = getattr(MF, loss)(x, y, reduction="mean")
            torch.testing.assert_close(function(x, y), ours)


BY_ROWS = [
    case for case in chosen("cpu", shapes=[(2501, 40)]) if case.family in ("pointwise", "rows")
]


@pytest.mark.parametrize("case", BY_ROWS, ids=lambda case: case.name.replace(" ", "-"))
def test_the_truth_of_some_rows_at_a_time_is_that_of_all_in_half_of_the_memory(case, monkeypatch):
    whole = Prepared(case, "cpu").truth
    seen = []
    exact = Prepared._exact
    monkeypatch.setattr(
        Prepared,
        "_exact",
        lambda self, *given: seen.append(len(given[0][0])) or exact(self, *given),
    )
    memory = case.truth_bytes // 2
    monkeypatch.setattr(prepared, "memory_bytes", lambda device: memory)
    made = Prepared(case, "cpu")
    assert len(seen) >= 4 and sum(seen) == case.rows and seen[-1] < seen[0]
    torch.testing.assert_close(made.truth, whole, rtol=1e-12, atol=1e-18)
    inputs = made.inputs[0]
    assert measure.peak_extra_bytes(lambda: made._truth(inputs), "cpu") <= memory / 2
    for run in runs(case, "cpu"):
        with contextlib.suppress(NotRun):
            assert prepared_errors(made, run), run


def prepared_errors(made, run):
    """Returns the errors of a run, which must be compared and right."""
    errors = made.errors(run, made.steps(run)[0])
    assert max(errors.values()) < TOLERANCE[made.case.dtype] * made.case.slack
    return errors


def test_what_not_even_half_of_the_memory_holds_has_no_rivals(monkeypatch):
    monkeypatch.setattr(prepared, "memory_bytes", lambda device: 1000)
    for case in (BY_ROWS[0], *chosen("cpu", losses=["batch_triplet_loss"], shapes=[(64, 12)])):
        made = Prepared(case, "cpu")
        with pytest.raises(NotRun, match="too large to be checked in float64"):
            made.steps(next(run for run in runs(case, "cpu") if run.who != "mtlfast"))


def test_bench_writes_json_markdown_and_picture(tmp_path, capsys):
    printed, found = bench(tmp_path, capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.md", "bench.png"}
    assert {run["passes"] for run in found["runs"]} == set(PASSES)
    assert {"mtlfast", "where", "compile"} == {run["who"] for run in found["runs"]}
    for run in found["runs"]:
        assert 0 < run["q1"] <= run["median"] <= run["q3"] and run["rounds"] == len(run["seconds"])
        assert run["error_value"] < run["tolerance"]
        assert run["passes"] == "fwd" or run["error_gradient"] < run["tolerance"]
        assert run["passes"] == "fwd" or run["peak_extra_bytes"] >= run["gradient_bytes"]
    assert found["machine"]["threads"] == 1 and found["not_run"] == []
    assert all(len(line) <= 120 for line in printed.out.splitlines() if "Written" not in line)
    assert "mse_loss, 33x5, float32, NaN targets" in printed.out
    assert len(printed.err.splitlines()) >= len(found["runs"])
    rows = [line for line in (tmp_path / "bench.md").read_text().splitlines() if "33x5" in line]
    assert len(rows) == len(found["runs"])


def test_goals_are_judged_where_that_is_asked(tmp_path, capsys):
    printed, _ = bench(tmp_path, capsys, "--goals", "--no-picture")
    assert "Goals (mtlfast/bench/goals.py): 1 of 1 reached, 0 not judged for load." in printed.out


@pytest.mark.parametrize("off", ["value", "gradient"])
def test_a_wrong_rival_is_reported_and_not_timed(off, monkeypatch, tmp_path, capsys):
    right = rivals.FORMULAS["mse_loss"]["where"]

    def wrong(x, y):
        loss = right(x, y)
        return loss * 1.001 if off == "value" else loss * 2 - loss.detach()

    monkeypatch.setitem(rivals.FORMULAS, "mse_loss", {"where": wrong})
    printed, found = bench(tmp_path, capsys)
    timed = {(run["who"], run["passes"]) for run in found["runs"]}
    assert ("where", "fwd+bwd") not in timed and ("mtlfast", "fwd+bwd") in timed
    told = [entry for entry in found["not_run"] if entry["who"] == "where" and entry["wrong"]]
    assert told and f"its {off} is off by" in told[-1]["reason"]
    assert "WRONG, not timed: where, mse_loss 33x5" in printed.out


@pytest.mark.parametrize("error", [RuntimeError, IndexError])
def test_a_rival_that_fails_is_reported_and_ours_goes_on(error, monkeypatch, tmp_path, capsys):
    def failing(x, y):
        raise error("out of\nmemory")

    monkeypatch.setitem(rivals.FORMULAS, "mse_loss", {"where": failing})
    _, found = bench(tmp_path, capsys)
    assert {run["who"] for run in found["runs"]} == {"mtlfast"}
    assert {entry["reason"] for entry in found["not_run"]} == {"fails here: out of"}


def test_ours_being_wrong_ends_in_an_error(monkeypatch, tmp_path, capsys):
    right = MF.mse_loss

    def wrong(*tensors, backend="auto", **options):
        return right(*tensors, backend=backend, **options) * (1 if backend == "reference" else 1.01)

    monkeypatch.setattr(MF, "mse_loss", wrong)
    assert cli.main([*MSE, "--output", str(tmp_path), "--no-picture"]) == 2
    printed = capsys.readouterr()
    assert "WRONG, not timed: mtlfast, mse_loss" in printed.out
    assert "mtlfast itself was wrong in" in printed.err.splitlines()[-1]
    assert (tmp_path / "bench.json").exists() and not (tmp_path / "bench.png").exists()


def test_the_time_limit_leaves_the_rest_out(tmp_path, capsys):
    printed, found = bench(tmp_path, capsys, "--limit", "1e-9", "--no-picture")
    assert not found["runs"] and "Nothing was timed." in printed.out
    assert {entry["reason"] for entry in found["not_run"]} == {
        "the time limit was reached (--limit)"
    }


def test_compare_shows_what_changed(tmp_path, capsys):
    _, old = bench(tmp_path, capsys)
    same = compare.changes(old, old)
    assert same[-1].startswith(f"{len(old['runs'])} runs compared, 0 changed")
    assert len(same) == len(old["runs"]) + 1

    new = copy.deepcopy(old)
    new["machine"]["threads"] = 4
    changed = new["runs"][0]
    changed["median"] = 2 * changed["median"] + changed["iqr"]
    new["runs"].pop()
    lines = compare.changes(old, new)
    assert lines[0] == "Not the same threads: 1 then, 4 now."
    (slower,) = [line for line in lines if "slower" in line]
    assert slower.endswith(f"{changed['case']}, {changed['passes']}, {table.who(changed)}")
    assert "1 changed by more" in lines[-1] and "1 only in the old file" in lines[-1]

    (tmp_path / "old.json").write_text(json.dumps(old))
    printed, _ = bench(tmp_path, capsys, "--compare", tmp_path / "old.json")
    assert f"{len(old['runs'])} runs compared" in printed.out.splitlines()[-1]


BAD = [
    (["--loss", "bce"], "--loss must be one of binary_cross_entropy_with_logits, "),
    (["--dtype", "int8"], "--dtype must be one of float32, bfloat16, float16, float64; got 'int8'"),
    (["--shape", "10000"], "--shape must be NxT, two integers from 1 on, as 10000x17; got '10000'"),
    (["--shape", "0x4"], "got '0x4'"),
    (["--shape", "3x4x5"], "got '3x4x5'"),
    (["--shape", "1000000000x1000"], "choose a smaller one"),
    (["--loss", "contrastive_loss", "--shape", "33x1"], "for losses on embeddings; got 33x1."),
    (["--threads", "0"], "must be an integer of at least 1; got '0'"),
    (["--seconds", "0"], "must be a number above 0; got '0'"),
    (["--limit", "soon"], "must be a number above 0; got 'soon'"),
    (["--device", "tpu"], "invalid choice: 'tpu'"),
    (["--compare", "none.json"], "got none.json, which does not exist"),
    (["--compare", "text.json"], "got text.json, which is not JSON"),
    (["--compare", "other.json"], "got other.json, which is something else"),
    (["--output", "text.json/x"], "--output must be a directory that can be written"),
    (["--quik"], "unrecognized arguments: --quik"),
]


@pytest.mark.parametrize("arguments, message", BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_arguments_are_refused_in_one_line(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "other.json").write_text('{"benchmarks": []}')
    work = importlib.import_module("mtlfast.bench.run")
    monkeypatch.setattr(work, "Session", lambda *_: pytest.fail("work before the check"))
    try:
        code = cli.main(["bench", *arguments])
    except SystemExit as exit:
        code = exit.code
    printed = capsys.readouterr()
    assert code == 2 and printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("mtlfast bench: error: ") and message in printed.err
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_refused(capsys):
    assert cli.main(["bench", "--device", "cuda"]) == 2
    assert "--device cuda needs a GPU, and PyTorch sees none" in capsys.readouterr().err


def test_without_matplotlib_it_says_so_before_any_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main([*MSE, "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert "bench.png needs matplotlib; pip install it, or take --no-picture." in printed.err
    assert not (tmp_path / "out").exists()
