"""What a bench leaves: the lines for the terminal, bench.json, bench.md and bench.png."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlfast.bench import picture, table
from mtlfast.writing import write_atomic

__all__ = ["lines", "write"]

COLUMNS = 116  # the table's width, roughly


def lines(content: Mapping[str, Any]) -> list[str]:
    """Returns what is printed at the end: the table, and what is said of it."""
    found = table.plain(content["runs"]) if content["runs"] else ["Nothing was timed."]
    notes = (textwrap.wrap(note, COLUMNS, subsequent_indent="  ") for note in table.notes(content))
    return [*found, "", *itertools.chain.from_iterable(notes)]


def write(content: Mapping[str, Any], output: Path, pictured: bool) -> list[Path]:
    """Writes bench.json, bench.md and, where wanted, bench.png; returns their paths."""
    paths = [output / f"bench.{suffix}" for suffix in ("json", "md", "png")]
    marked = "\n".join(table.markdown(content["runs"], table.notes(content)))
    write_atomic(paths[0], f"{json.dumps(content, indent=1)}\n".encode())
    write_atomic(paths[1], f"{marked}\n".encode())
    paths[2].unlink(missing_ok=True)  # of an earlier run
    return paths if pictured and picture.draw(content, paths[2]) else paths[:2]
