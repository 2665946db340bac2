"""Options of the command line that a recipe has beside those of all."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["LABELS", "Columns", "add_parameters"]

LABELS = "a CSV's label columns: a,b or the last n; or --labels for each, as names may hold commas"


def add_parameters(
    parser: argparse.ArgumentParser, build: Callable[..., Any], **words: str
) -> None:
    """Adds an option for each of some parameters of a recipe's ``build``: its type, its default.

    Args:
        parser: what takes them.
        build: the function, whose defaults they have.
        words: what each parameter is, by name.
    """
    parameters = inspect.signature(build, eval_str=True).parameters
    for name, told in words.items():
        kind, default = parameters[name].annotation, parameters[name].default
        option = f"--{name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(option, action="store_true", help=told)
            continue
        plain = next(one for one in (int, float, str) if kind in (one, one | None))
        if default is not None:
            told = f"{told} (default: {default})"
        parser.add_argument(option, type=plain, default=default, help=told)


class Columns(argparse.Action):
    """Takes label columns: a number, names with commas between, or a name each time it is given."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Adds what the option was given to what it was given before."""
        before, given = getattr(namespace, self.dest, None), values
        if before is not None:
            given = [*(before if isinstance(before, list) else [str(before)]), values]
        elif values.removeprefix("-").isdecimal():
            given = int(values)
        setattr(namespace, self.dest, given)
