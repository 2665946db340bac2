"""The command line: ``mtlfast info`` and ``mtlfast train``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import mtlfast

__all__ = ["main"]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 for bad input, 130 where it was interrupted.

    Args:
        arguments: as on the command line, without the program's name; by default those of this
            process.
    """
    options, rest = parser().parse_known_args(arguments)
    try:
        options.run(options, rest)
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"mtlfast {options.command}: error: {error}", file=sys.stderr)
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
    return 0


def parser() -> Parser:
    """Returns the parser; each command sets ``run``, the function that does its work."""
    top = Parser(prog="mtlfast", description="Fused multi-task losses and a thin trainer.")
    top.add_argument("--version", action="version", version=f"mtlfast {mtlfast.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("info", help="print versions, and backends or why one is absent")
    command.set_defaults(run=info)

    command = commands.add_parser(
        "train", help="train a recipe and write a report", add_help=False, allow_abbrev=False
    )
    command.add_argument("-h", "--help", action="store_true", help="explain the options and exit")
    command.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        help="what to train: attributes, auxheads, deepid2, digits, driving, jointvsseparate, "
        "labelstructures, rpn, slicelabels, tcdcn, textcnn or transfer",
    )
    command.add_argument("--data", type=Path, metavar="PATH", help="directory of the recipe's data")
    command.add_argument(
        "--variant", metavar="NAME", help="which variant (default: the recipe's first)"
    )
    command.add_argument(
        "--epochs",
        type=at_least(1),
        metavar="E",
        help="passes over the data (default: the recipe's)",
    )
    command.add_argument(
        "--seed", type=at_least(0), default=0, metavar="S", help="random seed (default: 0)"
    )
    command.add_argument(
        "--weighting",
        metavar="NAME",
        help="fixed, validation-loss-trend, dynamic-weight-average, uncertainty, random-weights or "
        "geometric-mean (default: the recipe's)",
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="where results go (default: runs/RECIPE)"
    )
    command.add_argument(
        "--threads",
        type=at_least(1),
        default=1,
        metavar="N",
        help="CPU threads (default: 1, with the same bits on machines of any number of cores)",
    )
    command.add_argument(
        "--checkpoint-every",
        type=at_least(1),
        metavar="STEPS",
        help="write a checkpoint after so many steps too (default: after each epoch only)",
    )
    command.add_argument(
        "--tensorboard",
        action="store_true",
        help="also log to TensorBoard, in DIR/tensorboard (needs 'mtlfast[tensorboard]')",
    )
    either = command.add_mutually_exclusive_group()
    either.add_argument(
        "--resume", action="store_true", help="continue the run in the output directory"
    )
    either.add_argument(
        "--overwrite", action="store_true", help="replace the run in the output directory"
    )
    command.set_defaults(run=train, parser=command)
    return top


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


def at_least(least: int) -> Callable[[str], int]:
    """Returns an argument type: integers from ``least`` on."""

    def integer(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be an integer of at least {least}; got {text!r}"
            )
        return int(text)

    return integer


def train(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Trains a recipe, scores it once on its test data, and prints and writes the report."""
    if options.help and options.recipe is None:
        print(options.parser.format_help())
        return
    if options.recipe is None:
        options.parser.error("the following arguments are required: RECIPE")
    # Here, so that the other commands need neither Accelerate nor what comes with it.
    import torch
    from accelerate import PartialState

    from mtlfast import recipes
    from mtlfast.train import report, state, tables

    recipe = recipes.recipe(options.recipe)
    own = Parser(prog=f"mtlfast train {options.recipe}", add_help=False, usage=argparse.SUPPRESS)
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
    output = chosen["output"]
    # Small networks gain nothing from a second thread, and waiting for it on busy cores took the
    # digits from 10 to 97 s.
    torch.set_num_threads(options.threads)
    processes = PartialState(cpu=not torch.accelerator.is_available())
    report.claim(output, processes, resume=options.resume, overwrite=options.overwrite)
    experiment = recipe.build(**chosen, **more)
    trainer = experiment.trainer
    processes.print(
        f"Tasks: {', '.join(trainer.names)}.\n{experiment.describe()}\n"
        f"Weighting: {trainer.weighting}."
    )
    trainer.fit(
        experiment.train,
        chosen["epochs"],
        experiment.batch_size,
        validation=experiment.validation,
        weight_data=experiment.weight_data,
        resume=options.resume,
    )
    scores = trainer.evaluate(experiment.test)
    measured = None if experiment.measure is None else experiment.measure()
    if processes.is_main_process:
        settings = {"recipe": options.recipe, **chosen, **state.settings(trainer)}
        content = report.write(trainer, scores, settings, figures=measured)
        files = f"Written to {output}: {', '.join(report.FILES)}."
        row = recipes.row(recipe, chosen, content["figures"])
        print(f"\n{tables.table(content)}\n\n{files}\n\n{row}")
