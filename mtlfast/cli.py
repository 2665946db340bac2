"""The command line: ``mtlfast info``, ``mtlfast train`` and ``mtlfast bench``."""

from __future__ import annotations

import argparse
import io
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mtlfast
from mtlfast.options import Parser, parser
from mtlfast.recipes.registry import listed
from mtlfast.writing import reason

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    It is 0, 2 for bad input and for results that are not right, 130 where it was interrupted.

    Args:
        arguments: as on the command line, without the program's name; by default those of this
            process.
    """
    for stream in (sys.stdout, sys.stderr):  # a file's name may be no UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options, rest = parser().parse_known_args(arguments)
    usual, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        COMMANDS[options.command](options, rest)
    except (ValueError, FloatingPointError) as error:
        print(f"mtlfast {options.command}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mtlfast {options.command}: error: {reason(error)}.", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mtlfast"):
            raise
        needs = f"{error.name} is not installed; pip install 'mtlfast[train]' brings it"
        print(f"mtlfast {options.command}: error: {needs}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        hint = f": {interrupt}" if str(interrupt) else ""
        hint += "; --resume continues it" if options.command == "train" else ""
        print(f"mtlfast {options.command}: interrupted{hint}.", file=sys.stderr)
        return 128 + getattr(interrupt, "signal", signal.SIGINT)
    finally:
        warnings.formatwarning = usual
    return 0


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """Returns a warning as the command line tells it: without the line of code it comes from."""
    return f"mtlfast: warning: {message}\n"


def info(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Prints versions and backends."""
    refuse(rest)
    print(mtlfast.info())


def refuse(rest: Sequence[str]) -> None:
    """Refuses arguments that nothing has taken.

    Raises:
        ValueError: where there are some.
    """
    if rest:
        raise ValueError(f"unrecognized arguments: {' '.join(rest)}.")


def bench(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Times the losses against what one would otherwise run."""
    refuse(rest)
    from mtlfast.bench import run
    from mtlfast.bench.session import Settings

    run.bench(
        Settings(
            device=options.device,
            threads=options.threads,
            quick=options.quick,
            seconds=options.seconds,
            limit=options.limit,
            keep_pages=options.keep_pages,
        ),
        options.output,
        options.loss,
        options.shape,
        options.dtype,
        options.compare,
        pictured=not options.no_picture,
        judged=options.goals,
    )


def train(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Trains a recipe, scores it once on its test data, and prints and writes the report."""
    if options.help and options.recipe is None:
        print(options.parser.format_help(), listed(), sep="\n")
        return
    if options.recipe is None:
        options.parser.error("the following arguments are required: RECIPE")
    # Here, so that the other commands need neither Accelerate nor what comes with it.
    import torch
    from accelerate import PartialState

    from mtlfast import recipes
    from mtlfast.train.output import claimed

    recipe = recipes.recipe(options.recipe)
    own = Parser(prog=f"mtlfast train {options.recipe}", add_help=False, usage=argparse.SUPPRESS)
    own._optionals.title = f"options of {options.recipe}"
    if hasattr(recipe, "add_options"):
        recipe.add_options(own)
    if options.help:
        print(options.parser.format_help(), own.format_help(), recipes.explain(recipe), sep="\n")
        return
    special = vars(own.parse_args(rest))
    if (options.data is None) != (recipe.DATA is None):
        needs = (
            f"needs --data, {recipe.DATA}" if recipe.DATA else "brings its data, needs no --data"
        )
        raise ValueError(f"recipe {options.recipe} {needs}; got {options.data}.")
    chosen = {
        "data": options.data,
        "epochs": options.epochs or recipe.EPOCHS,
        "weighting": recipes.check_weighting(options.weighting or recipe.WEIGHTING),
        "variant": recipes.check_variant(recipe, options.variant),
        "seed": options.seed,
        "output": options.output or Path("runs", options.recipe),
        **special,
    }
    more = {"checkpoint_every": options.checkpoint_every, "tensorboard": options.tensorboard}
    # Small networks gain nothing from a second thread, and waiting for it on busy cores took the
    # digits from 10 to 97 s.
    torch.set_num_threads(options.threads)
    processes = PartialState(cpu=not torch.accelerator.is_available())
    again = {"resume": options.resume, "overwrite": options.overwrite}
    with claimed(chosen["output"], processes, **again):
        fit_and_report(options, recipe, chosen, more)


def fit_and_report(
    options: argparse.Namespace, recipe: ModuleType, chosen: dict[str, Any], more: dict[str, Any]
) -> None:
    """Trains a recipe as chosen, and scores it; prints and writes the report."""
    from mtlfast import recipes
    from mtlfast.train.output import FILES
    from mtlfast.train.report import pictures, summary, tables

    experiment = recipe.build(**chosen, **more)
    trainer = experiment.trainer
    processes, output = trainer.accelerator, chosen["output"]
    processes.print(
        f"Tasks: {tables.listed(trainer.names)}.\n{experiment.describe()}\n"
        f"Weighting: {trainer.weighting}."
    )
    trainer.fit(
        experiment.train,
        chosen["epochs"],
        experiment.batch_size,
        validation=experiment.validation,
        weight_data=experiment.weight_data,
        resume=options.resume,
        pictures=False,  # so that no score waits for them
    )
    scores = trainer.evaluate(experiment.test)
    measured = None if experiment.measure is None else experiment.measure()
    if processes.is_main_process:
        settings = {"recipe": options.recipe, **chosen, **trainer.run.settings}
        content = summary.write(
            output, trainer.run, trainer.model, scores, settings, figures=measured
        )
        print(f"\n{tables.table(content)}\n")
        pictures.draw_run(output, trainer.run)
        print(f"Written to {output}: {', '.join(FILES)}.\n")
        print(recipes.row(recipe, chosen, content))


COMMANDS = {"info": info, "train": train, "bench": bench}
