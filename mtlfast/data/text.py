"""Text of others: files in UTF-8, and the cells of CSV tables and of lists."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtlfast.data.floats import LARGEST, OTHER_UNIT, warn_merged

__all__ = ["Cells", "read_cells", "read_lines", "read_text"]

MISSING = ("?", "")
SEPARATORS = ",;\t"
Line = tuple[int, list[str]]
# The longer mark first: that of UTF-32 begins like that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PK\x03\x04": "a spreadsheet or a zip archive",
    b"\x1f\x8b": "packed by gzip",
}


class Cells(NamedTuple):
    """The cells of a file by column, and what messages call them.

    Attributes:
        file: the file.
        columns: tokens by the name of their column, or by the number of a label in a list.
        lines: of a list, the lines that rows stand in; else rows are counted.
    """

    file: Path
    columns: Mapping[Any, Sequence[str]]
    lines: Sequence[int] | None = None

    def row(self, number: int) -> str:
        """Returns how messages name a row."""
        line = f"row {number + 1}" if self.lines is None else f"line {self.lines[number]}"
        return f"{self.file}, {line}"

    def numbers(self, names: Sequence[Any], missing: str = "") -> np.ndarray:
        """Returns columns as float64.

        Args:
            names: of the columns.
            missing: what messages say may stand where a number is missing, which is NaN then; by
                default none may be missing.

        Raises:
            ValueError: for the first cell that is no number, or none that float32 can hold.
        """
        values = np.empty((len(next(iter(self.columns.values()))), len(names)))
        for at, name in enumerate(names):
            tokens = [token.strip() for token in self.columns[name]]
            absent = MISSING if missing else ()
            values[:, at] = [math.nan if t in absent else _number(t) for t in tokens]
            sizes = np.abs(values[:, at])
            if (wrong := sizes > LARGEST).any():
                row = int(wrong.argmax())
                place = f"column {name!r}" if self.lines is None else f"label {name}"
                why = _wrong(tokens[row])
                raise ValueError(f"{self.row(row)}, {place}: must be a number{missing}{why}.")
            if (sizes >= 2**53).any():
                _warn_of_digits(f"{self.file}, column {name!r}", tokens)
        return values

    def labels(self, names: Sequence[Any]) -> Tensor:
        """Returns columns as labels of float32, NaN where one is missing; raises as ``numbers``."""
        values = self.numbers(names, ", '?' or blank" if self.lines is None else ", or '?'")
        warn_merged(str(self.file), values, names, OTHER_UNIT)
        return torch.from_numpy(values.astype(np.float32))


def read_text(file: Path) -> str:
    """Returns the text of a file in UTF-8.

    Raises:
        ValueError: where it is in another encoding or no text, with what it seems to be.
    """
    content = file.read_bytes()
    seems = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if seems is None and b"\0" in content[:1000]:
        # Of UTF-16 every other byte is 0 where letters are Latin ones.
        halves = [content[start:1000:2] for start in (0, 1)]
        few, many = sorted(half.count(0) / max(1, len(half)) for half in halves)
        seems = "UTF-16" if many > 0.5 and few < 0.1 else "no text"
    line = 1
    if seems is None:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line, seems = content[: error.start].count(b"\n") + 1, "Latin-1 or Windows-1252"
    raise ValueError(
        f"{file}, line {line}: must be text in UTF-8; it seems to be {seems}: save it as UTF-8."
    )


def read_lines(file: Path) -> tuple[list[str], Cells]:
    """Returns the paths and labels of a list with lines ``path l1 l2 ... ln``, blank ones aside.

    Raises:
        ValueError: without labels, or for a line of another length.
    """
    lines = [(n, line.split()) for n, line in enumerate(read_text(file).split("\n"), 1)]
    lines = [(number, tokens) for number, tokens in lines if tokens]
    if not lines or len(lines[0][1]) < 2:
        raise ValueError(f"{file} must hold lines 'path l1 l2 ... ln'; its first has no label.")
    paths = [tokens.pop(0) for _, tokens in lines]
    columns = _columns(file, lines, len(lines[0][1]), "labels")
    return paths, Cells(file, dict(enumerate(columns, 1)), [number for number, _ in lines])


def read_cells(file: Path, *, nameless: bool = False) -> Cells:
    """Returns the columns of a CSV file as text, separated by comma, semicolon or tab.

    A column without a name that counts the rows, or is empty, is left out with a warning.

    Args:
        file: the file.
        nameless: whether the first column needs no name.

    Raises:
        ValueError: without a header of different names or rows, or for a row of another length.
    """
    text = read_text(file)
    lines = list(_records(file, text, _separator(file, text))) or [(1, [])]
    head = [name.strip() for name in lines.pop(0)[1]]
    columns = _columns(file, lines, len(head), "cells, as the header has")
    kept = _named(file, head, columns, nameless)
    names = [name for name, _ in kept]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None or not lines or not names:
        got = f"{len(lines)} rows and columns {', '.join(names)}"
        got = f"{twice!r} twice, " * (twice is not None) + textwrap.shorten(got, 200)
        raise ValueError(f"{file} must have a header of different names, and rows; got {got}.")
    if all(math.isfinite(_number(name)) for name in names):
        got = textwrap.shorten(", ".join(names), 80)
        raise ValueError(f"{file}, line 1: must be a header of names; got numbers, {got}.")
    return Cells(file, dict(kept))


def _records(file: Path, text: str, separator: str) -> Iterator[Line]:
    """Yields the lines of cells that are not blank, with the number of the line they begin in."""
    options = {"delimiter": separator, "skipinitialspace": True, "strict": True}
    reader, line = csv.reader(io.StringIO(text, newline=""), **options), 1  # type: ignore[arg-type]
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}, line {line}: {error}.") from error


def _separator(file: Path, text: str) -> str:
    """Returns the separator of which the header has most, if the first rows have as many."""
    head = re.sub(r'"[^"]*("|$)', "", text[:100_000]).lstrip().partition("\n")[0]
    ranked = sorted(SEPARATORS, key=head.count, reverse=True)
    for separator in ranked:
        try:
            first = itertools.islice(_records(file, text, separator), 20)
            widths = {len(cells) for _, cells in first}
        except ValueError:
            continue
        if len(widths) == 1 and widths != {1}:
            return separator
    return ranked[0]


def _columns(file: Path, lines: Sequence[Line], width: int, of: str) -> list[tuple[str, ...]]:
    """Returns the columns of lines that are all of one width."""
    for line, cells in lines:
        if len(cells) != width:
            raise ValueError(f"{file}, line {line}: must have {width} {of}; got {len(cells)}.")
    return list(zip(*(cells for _, cells in lines), strict=True)) or [()] * width


def _named(
    file: Path, head: list[str], columns: list[tuple[str, ...]], nameless: bool
) -> list[tuple[str, tuple[str, ...]]]:
    """Returns the columns that have a name; of those without, what is no data is left out."""
    kept = []
    for at, (name, cells) in enumerate(zip(head, columns, strict=True)):
        if name not in ("", "Unnamed: 0"):  # the second is pandas' word for the first
            kept.append((name, cells))
            continue
        tokens = [cell.strip() for cell in cells]
        counted = at == 0 and tokens in ([str(n + s) for n in range(len(cells))] for s in (0, 1))
        if counted or not (name or any(tokens)):
            holds = "counts the rows" if counted else "is empty"
            warnings.warn(
                f"{file}: column {at + 1} has no name and {holds}; it is left out.", stacklevel=4
            )
        elif name or (at == 0 and nameless):
            kept.append((name, cells))
        else:
            wanted = "every column must have a name"
            raise ValueError(f"{file}, line 1: {wanted}; column {at + 1} has none.")
    return kept


def _number(token: str) -> float:
    """Returns the finite number that a token is, else inf; Python's own 1_000 is none."""
    try:
        value = float(token)
    except ValueError:
        return math.inf
    return value if math.isfinite(value) and "_" not in token else math.inf


def _wrong(token: str) -> str:
    """Returns the end of a message on a token that is no number, or none of float32."""
    if math.isfinite(_number(token)):
        return f", at most 3.4e38, as float32 holds it; got {token!r}"
    todo = ": write decimal points" if re.fullmatch(r"-?\d+,\d+", token) else ""
    return f"; got {token!r}{todo}"


def _warn_of_digits(what: str, tokens: Sequence[str]) -> None:
    whole = {int(token) for token in tokens if token.lstrip("+-").isdecimal()}
    if len(set(map(float, whole))) < len(whole):
        warnings.warn(
            f"{what}: different integers become one, as they have more than 15 digits; leave the "
            "column out, or count it from another zero.",
            stacklevel=5,
        )
