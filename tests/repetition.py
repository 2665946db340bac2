"""Blocks of lines that stand twice: what counts as a line, and where blocks are found."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

LINES = 8
BRACKETS = set("()[]{},;: ")


def lines(path):
    """Yields (number, text) of the lines of a file that say something of their own.

    Not imports and what is exported, docstrings, comments, blank lines and brackets.
    """
    text = path.read_text()
    left_out = _python(text) if path.suffix == ".py" else _native(text)
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"\s+(#|//) .*", "", f" {line}").strip()
        if number not in left_out and set(line) - BRACKETS:
            yield number, line


def _python(text):
    found = set()
    for node in ast.walk(ast.parse(text)):
        exported = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        told = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if exported or told or isinstance(node, ast.Import | ast.ImportFrom):
            found |= set(range(node.lineno, node.end_lineno + 1))
    return found


def _native(text):
    """Returns the lines of directives that only include, guard or close."""
    idle = re.compile(r"\s*(#include|#pragma|#endif|#else|namespace|using namespace|public:|//)")
    return {number for number, line in enumerate(text.splitlines(), 1) if idle.match(line)}


def repeated(paths, length=LINES):
    """Returns ((path, first line), (path, first line), lines) of each block that stands twice.

    Of the longest blocks, and not of the shorter ones in them.
    """
    everything = [(path, *line) for path in paths for line in lines(path)]
    texts = [text for *_, text in everything]
    places = defaultdict(list)
    for start in range(len(texts) - length + 1):
        if everything[start][0] == everything[start + length - 1][0]:
            places[tuple(texts[start : start + length])].append(start)
    pairs = {
        (first, second)
        for starts in places.values()
        for number, second in enumerate(starts)
        for first in starts[:number]
        if second - first >= length
    }
    found = []
    for first, second in sorted(pairs):
        if (first - 1, second - 1) not in pairs:
            long = length
            while (first + long - length + 1, second + long - length + 1) in pairs:
                long += 1
            found.append((everything[first][:2], everything[second][:2], long))
    return found
