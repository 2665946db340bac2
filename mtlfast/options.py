"""The options of the command line, and how a mistake in them is told."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import mtlfast
from mtlfast.recipes.registry import RECIPES, WEIGHTINGS

__all__ = ["Parser", "parser"]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with one line."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> Parser:
    """Returns the parser; ``command`` is what was chosen."""
    top = Parser(prog="mtlfast", description="Fused multi-task losses and a thin trainer.")
    top.add_argument("--version", action="version", version=f"mtlfast {mtlfast.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("info", help="print versions, and backends or why one is absent")

    command = commands.add_parser(
        "train", help="train a recipe and write a report", add_help=False, allow_abbrev=False
    )
    command.add_argument("-h", "--help", action="store_true", help="explain the options and exit")
    command.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        help=f"what to train: {either(RECIPES)}",
    )
    command.add_argument(
        "--data", type=Path, metavar="PATH", help="the recipe's data: RECIPE --help says what"
    )
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
        help=f"{either(WEIGHTINGS)} (default: the recipe's)",
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="where results go (default: runs/RECIPE)"
    )
    command.add_argument(
        "--threads",
        type=at_least(1),
        default=1,
        metavar="N",
        help="CPU threads (default: 1, with the same bits on machines of any number of cores; "
        "wide networks gain from more)",
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
    again = command.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="continue the run in the output directory"
    )
    again.add_argument(
        "--overwrite", action="store_true", help="replace the run in the output directory"
    )
    command.set_defaults(parser=command)

    command = commands.add_parser(
        "bench",
        help="time the losses against what one would otherwise run",
        description="Checks every loss and what one would otherwise run against float64, times "
        "them, prints a table and writes bench.json, bench.md and bench.png.",
        allow_abbrev=False,
    )
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    command.add_argument(
        "--loss", **several, metavar="NAME", help="losses of mtlfast.functional (default: all)"
    )
    command.add_argument(
        "--shape",
        **several,
        metavar="NxT",
        help="your own shapes: rows x tasks, or rows x dimensions (default: the table's); "
        "losses on a whole batch of over 8192 rows only where --loss names them",
    )
    command.add_argument(
        "--dtype", **several, help="float32, bfloat16, float16, float64 (default: the table's)"
    )
    command.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: the GPU where there is one"
    )
    command.add_argument(
        "--threads", type=at_least(1), default=2, metavar="K", help="CPU threads (default: 2)"
    )
    command.add_argument(
        "--quick", action="store_true", help="few cases, fwd+bwd only, under two minutes"
    )
    command.add_argument(
        "--seconds",
        type=above_zero,
        metavar="S",
        help="time per run (default: 0.4; quick 0.15; on a GPU 0.08)",
    )
    command.add_argument(
        "--limit",
        type=above_zero,
        metavar="S",
        help="time for all (default: 600; quick and GPU 90)",
    )
    command.add_argument(
        "--keep-pages", action="store_true", help="make glibc keep freed memory, for all alike"
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path("runs/bench"),
        metavar="DIR",
        help="where the files go (default: runs/bench)",
    )
    command.add_argument(
        "--compare", type=Path, metavar="OLD.json", help="show what changed since that bench.json"
    )
    command.add_argument(
        "--goals", action="store_true", help="say which of the project's own goals are reached"
    )
    command.add_argument(
        "--no-picture", action="store_true", help="without bench.png, which needs matplotlib"
    )
    return top


def either(names: Iterable[str]) -> str:
    """Returns names as a choice.

    Example:
        >>> either(["sum", "mean", "none"])
        'sum, mean or none'
    """
    *others, last = names
    return f"{', '.join(others)} or {last}"


def at_least(least: int) -> Callable[[str], int]:
    """Returns an argument type: integers from ``least`` on."""

    def integer(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be an integer of at least {least}; got {text!r}"
            )
        return int(text)

    return integer


def above_zero(text: str) -> float:
    """An argument type: numbers above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {text!r}")
    return number
