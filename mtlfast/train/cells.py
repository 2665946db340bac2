"""Text of others: files in UTF-8, and the cells of a CSV file."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

__all__ = ["LARGEST", "MISSING", "Cells", "is_number", "numbers", "read_cells", "read_text"]

MISSING = ("?", "")
LARGEST = float(np.finfo(np.float32).max)
Cells = dict[str, tuple[str, ...]]
SEPARATORS = ",;\t"
# The longer mark first: that of UTF-32 begins like that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PK\x03\x04": "a spreadsheet or a zip archive",
    b"\x1f\x8b": "packed by gzip",
}


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
    records = list(_records(file, text, _separator(file, text)))
    head = [name.strip() for name in records[0][1]] if records else []
    for line, cells in records[1:]:
        if len(cells) != len(head):
            wanted = f"must have {len(head)} cells, as the header has"
            raise ValueError(f"{file}, line {line}: {wanted}; got {len(cells)}.")
    rows = [cells for _, cells in records[1:]]
    kept = _named(file, head, rows, nameless)
    names = [head[at] for at in kept]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None or not rows or not names:
        got = f"{len(rows)} rows and columns {', '.join(names)}"
        got = f"{twice!r} twice, " * (twice is not None) + textwrap.shorten(got, 200)
        raise ValueError(f"{file} must have a header of different names, and rows; got {got}.")
    if all(map(is_number, names)):
        got = textwrap.shorten(", ".join(names), 80)
        raise ValueError(f"{file}, line 1: must be a header of names; got numbers, {got}.")
    columns = list(zip(*rows, strict=True))
    return {head[at]: columns[at] for at in kept}


def _records(file: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
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


def _named(file: Path, head: list[str], rows: list[list[str]], nameless: bool) -> list[int]:
    """Returns which columns have a name; of those without, what is no data may be left out."""
    kept = []
    for at, name in enumerate(head):
        if name not in ("", "Unnamed: 0"):  # the second is pandas' word for the first
            kept.append(at)
            continue
        cells = [row[at].strip() for row in rows]
        counted = at == 0 and any(cells == [str(n + s) for n in range(len(rows))] for s in (0, 1))
        if counted or not (name or any(cells)):
            holds = "counts the rows" if counted else "is empty"
            warnings.warn(
                f"{file}: column {at + 1} has no name and {holds}; it is left out.", stacklevel=4
            )
        elif name or (at == 0 and nameless):
            kept.append(at)
        else:
            wanted = "every column must have a name"
            raise ValueError(f"{file}, line 1: {wanted}; column {at + 1} has none.")
    return kept


def is_number(token: str) -> bool:
    """Whether a token is a finite number; Python's own 1_000 is not."""
    try:
        return math.isfinite(float(token)) and "_" not in token
    except ValueError:
        return False


def numbers(file: Path, cells: Cells, names: Sequence[str], *, missing: bool = False) -> np.ndarray:
    """Returns columns as float64; where ``missing`` is allowed, it is NaN.

    Raises:
        ValueError: for the first cell that is no number, or none that float32 can hold.
    """
    length = len(next(iter(cells.values())))
    values = np.empty((length, len(names)))
    for at, name in enumerate(names):
        tokens = [token.strip() for token in cells[name]]
        absent = [row for row, token in enumerate(tokens) if token in MISSING] if missing else []
        for row in absent:
            tokens[row] = "0"
        try:
            values[:, at] = list(map(float, tokens))
            clear = "_" not in "".join(tokens) and (np.abs(values[:, at]) <= LARGEST).all()
        except ValueError:
            clear = False
        if not clear:
            row, why = next((row, why) for row, t in enumerate(tokens) if (why := _odd(t)))
            wanted = "a number, '?' or blank" if missing else "a number"
            place, got = f"{file}, row {row + 1}, column {name!r}", cells[name][row]
            raise ValueError(f"{place}: must be {wanted}{why.format(repr(got))}.")
        if np.abs(values[:, at]).max() >= 2**53:
            _warn_of_digits(file, name, tokens)
        values[absent, at] = np.nan
    return values


def _odd(token: str) -> str:
    """Returns the end of the message on a token that is no number, with {} for it, or nothing."""
    if not is_number(token):
        return "; got {}" + ": write decimal points" * bool(re.fullmatch(r"-?\d+,\d+", token))
    return ", at most 3.4e38, as float32 holds it; got {}" if abs(float(token)) > LARGEST else ""


def _warn_of_digits(file: Path, name: str, tokens: Sequence[str]) -> None:
    exact = {int(token) for token in tokens if token.lstrip("+-").isdecimal()}
    if len(set(map(float, exact))) < len(exact):
        warnings.warn(
            f"{file}, column {name!r}: different integers become one, as they have more than 15 "
            "digits; leave the column out, or count it from another zero.",
            stacklevel=5,
        )
