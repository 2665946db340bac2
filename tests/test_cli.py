"""The command line: what it prints, and how it refuses bad input before any work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import mtlfast
from mtlfast import cli, recipes
from mtlfast.recipes import digits

TRAIN = ["train", "digits", "--output"]


def refusal(arguments, capsys):
    """Runs a command that must fail and returns its one line on standard error."""
    try:
        code = cli.main(list(map(str, arguments)))
    except SystemExit as exit:
        code = exit.code
    printed = capsys.readouterr()
    assert code == 2 and printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith("mtlfast")
    return printed.err


@pytest.fixture
def no_work(monkeypatch):
    """Lets a test fail that loads data or builds a model before its bad input is refused."""
    monkeypatch.setattr(digits, "build", lambda **options: pytest.fail("work before the check"))


def test_info_prints_the_versions_and_the_backends(one_thread):
    command = [sys.executable, "-m", "mtlfast", "info"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0 and done.stdout.strip() == mtlfast.info().strip()


def test_nothing_dear_is_imported_before_it_is_needed():
    dear = ("torch._dynamo", "torchmetrics", "matplotlib")
    code = f"import sys, mtlfast.train; print([name for name in {dear} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_help_lists_recipes_and_weightings_and_needs_no_package_of_the_trainers():
    absent = ["accelerate", "torchmetrics", "sklearn", "matplotlib", "pandas", "tqdm"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from mtlfast import cli; "
    code += "sys.exit(cli.main(['train', '--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line.strip().partition(" ") for line in done.stdout.splitlines()]
    told = {name: what.strip() for name, _, what in lines}
    assert recipes.RECIPES.items() <= told.items()
    assert told["fixed"] == "Weights that stay as given: sum_t w_t L_t"
    assert set(recipes.WEIGHTINGS) <= set(told)


def test_every_option_of_train_is_explained(capsys):
    assert cli.main(["train", "digits", "--help"]) == 0
    text = capsys.readouterr().out
    assert "variants:" in text and "defaults: --epochs 40" in text
    options = ("--data", "--epochs", "--seed", "--weighting", "--output", "--resume", "--overwrite")
    assert all(option in text for option in options)
    assert all(name in text for name in (*recipes.RECIPES, *recipes.WEIGHTINGS))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_help_of_a_recipe_tells_its_data_and_which_options_are_its_own(name, capsys):
    assert cli.main(["train", name, "--help"]) == 0
    text, recipe = capsys.readouterr().out, recipes.recipe(name)
    assert f"\ndata: {recipe.DATA or 'its own; needs no --data'}\n" in text
    assert text.count("\noptions:\n") == 1
    assert (f"\noptions of {name}:\n" in text) == hasattr(recipe, "add_options")


BAD = [
    ([], "the following arguments are required: COMMAND"),
    (["learn"], "invalid choice: 'learn'"),
    (["train"], "the following arguments are required: RECIPE"),
    (["train", "digit"], f"recipe must be one of {', '.join(recipes.RECIPES)}; got 'digit'"),
    (["train", "digits", "--epochs", "0"], "must be an integer of at least 1; got '0'"),
    (["train", "digits", "--epochs", "two"], "must be an integer of at least 1; got 'two'"),
    (["train", "digits", "--seed", "-1"], "must be an integer of at least 0; got '-1'"),
    (["train", "digits", "--weighting", "equal"], "must be one of fixed, validation-loss-trend"),
    (["train", "digits", "--data", "x"], "brings its data, needs no --data; got x"),
    (["train", "digits", "--resume", "--overwrite"], "not allowed with argument --resume"),
    (["train", "digits", "--variant", "apart"], "variant must be one of joint; got 'apart'"),
    (["train", "digits", "--epoch", "3"], "unrecognized arguments: --epoch 3"),
    (["info", "--all"], "unrecognized arguments: --all"),
]


@pytest.mark.parametrize("arguments, message", BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_refused_in_one_line(
    arguments, message, no_work, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(arguments, capsys)
    assert not list(tmp_path.iterdir())


def test_an_output_directory_that_is_not_writable_is_refused(no_work, capsys, tmp_path):
    (tmp_path / "file").touch()
    line = refusal([*TRAIN, tmp_path / "file" / "run"], capsys)
    assert "must be writable; got: Not a directory." in line


@pytest.mark.parametrize("trace", ["report.json", "history.csv", "checkpoints/step-1.safetensors"])
def test_an_output_directory_that_holds_another_run_is_refused(trace, no_work, capsys, tmp_path):
    (tmp_path / trace).parent.mkdir(exist_ok=True)
    (tmp_path / trace).touch()
    line = refusal([*TRAIN, tmp_path], capsys)
    assert "holds another run" in line and "--resume" in line and "--overwrite" in line
    assert (tmp_path / trace).exists()


def test_a_package_that_is_not_installed_is_named_with_the_remedy(monkeypatch, capsys, tmp_path):
    def build(**options):
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(digits, "build", build)
    line = refusal([*TRAIN, tmp_path], capsys)
    assert "sklearn is not installed; pip install 'mtlfast[train]' brings it" in line
