"""The work of ``mtlfast bench``: checks what was asked, runs it, and reports."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from mtlfast.bench import cases, compare, goals, measure, report, table
from mtlfast.bench.case import Case, NotRun, Run, runs
from mtlfast.bench.session import Session, Settings

__all__ = ["bench"]

BYTES_PER_ELEMENT = 100  # of inputs, gradients and what a rival keeps, roughly


def bench(
    settings: Settings,
    output: Path,
    losses: Collection[str] = (),
    shapes: Sequence[str] = (),
    dtypes: Collection[str] = (),
    old: Path | None = None,
    pictured: bool = True,
    judged: bool = False,
) -> None:
    """Times the chosen cases, prints the table and writes bench.json, bench.md and bench.png.

    Args:
        settings: how to measure.
        output: directory for the files.
        losses: names; none chooses all.
        shapes: "NxT" each; none chooses the table's.
        dtypes: names; none chooses the table's.
        old: a bench.json to compare with.
        pictured: whether to draw bench.png.
        judged: whether to say which of the project's goals are reached.

    Raises:
        ValueError: for a bad argument, before any work.
        FloatingPointError: where a number of ours was not right, after all is written.
    """
    if pictured and importlib.util.find_spec("matplotlib") is None:  # now, not after minutes
        raise ValueError("bench.png needs matplotlib; pip install it, or take --no-picture.")
    _check("--loss", losses, cases.LOSSES)
    _check("--dtype", dtypes, cases.DTYPES)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a GPU, and PyTorch sees none; take --device cpu.")
    device = str(settings.resolved().device)
    own = [_shape(text, device) for text in shapes]
    earlier = None if old is None else compare.load(old)
    todo = [
        (case, run)
        for case in cases.chosen(device, settings.quick, losses, own, dtypes)
        for run in runs(case, device)
    ]
    if not todo:
        wanted = "--shape must have two dimensions or more for losses on embeddings"
        raise ValueError(f"{wanted}; got {', '.join(shapes)}.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        wanted = "--output must be a directory that can be written"
        raise ValueError(f"{wanted}; got {output}: {error.strerror}; name another.") from error

    session = Session(settings)
    if session.load > measure.QUIET:
        print(
            f"The load is {session.load:.1f}: runs disturbed by others are marked *.",
            file=sys.stderr,
        )
    try:
        _run(session, todo)
    finally:  # what an interrupted run found is kept too
        content = session.content()
        if content["runs"] or content["not_run"]:
            print("\n".join(report.lines(content)))
            print(f"\nWritten: {', '.join(map(str, report.write(content, output, pictured)))}.")
    if earlier is not None:
        print("\n".join(["", f"Since {old}:", *compare.changes(earlier, content)]))
    if judged:
        print("\n".join(["", *goals.verdicts(session.records, session.device)]))
    wrong = sum(entry["wrong"] and entry["who"] == "mtlfast" for entry in session.not_run)
    if wrong:
        raise FloatingPointError(f"mtlfast itself was wrong in {wrong} runs; see WRONG above.")


def _check(option: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{option} must be one of {', '.join(known)}; got {name!r}.")


def _shape(text: str, device: str) -> tuple[int, int]:
    """Returns (N, T); raises ValueError where it is none, or too large for the machine."""
    rows, x, width = text.partition("x")
    if not (x and rows.isdecimal() and width.isdecimal() and int(rows) and int(width)):
        raise ValueError(f"--shape must be NxT, two integers from 1 on, as 10000x17; got {text!r}.")
    needed = int(rows) * int(width) * BYTES_PER_ELEMENT
    there = measure.memory_bytes(device)
    if needed > there:
        raise ValueError(
            f"--shape {text} needs about {needed / 1e9:.0f} GB and this machine has "
            f"{there / 1e9:.0f}; choose a smaller one."
        )
    return int(rows), int(width)


def _run(session: Session, todo: Sequence[tuple[Case, Run]]) -> None:
    """Runs all, and says on standard error which run is on and what it took."""
    for number, (case, run) in enumerate(todo):
        if session.over():
            print(f"The time limit was reached: {len(todo) - number} runs left.", file=sys.stderr)
            session.leave_out(todo[number:], "the time limit was reached (--limit)")
            return
        name = table.who({"who": run.who, "level": run.level})
        start = (
            f"[{number + 1:{len(str(len(todo)))}}/{len(todo)}] {case.name}, {run.passes}, {name}: "
        )
        print(start, end="", file=sys.stderr, flush=True)
        try:
            record = session.time(case, run)
            said = table.duration(record["median"], record["iqr"])
        except NotRun as reason:
            said = f"not timed, {reason}"
        print(said, file=sys.stderr)
