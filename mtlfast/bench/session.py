"""What all runs of a bench share, and what they found."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import mtlfast
from mtlfast.bench import measure
from mtlfast.bench.case import Case, NotRun, Run
from mtlfast.bench.prepared import Prepared, Wrong

__all__ = ["FORMAT", "Session", "Settings"]

FORMAT = "mtlfast bench 1"  # of bench.json
SECONDS = {"cpu": 0.4, "cuda": 0.08}
QUICK_SECONDS = 0.15
LIMIT = {"cpu": 600.0, "cuda": 90.0}
QUICK_LIMIT = 90.0


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        device: "cpu" or "cuda"; None is the GPU where there is one.
        threads: CPU threads.
        quick: little time per run.
        seconds: time per run; None chooses by device and ``quick``.
        limit: time for all runs, after which the rest is left out; None chooses likewise.
        keep_pages: make glibc keep freed memory, for us and all rivals alike.
    """

    device: str | None = None
    threads: int = 2
    quick: bool = False
    seconds: float | None = None
    limit: float | None = None
    keep_pages: bool = False

    def resolved(self) -> Settings:
        """Returns the same with a value for everything."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        seconds, limit = SECONDS[device], LIMIT[device]
        if self.quick:
            seconds, limit = min(seconds, QUICK_SECONDS), min(limit, QUICK_LIMIT)
        return Settings(
            device,
            self.threads,
            self.quick,
            self.seconds or seconds,
            self.limit or limit,
            self.keep_pages,
        )


class Session:
    """Runs cases one after the other, and keeps what was found.

    Args:
        settings: how to measure.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.resolved()
        self.device = str(self.settings.device)
        torch.set_num_threads(self.settings.threads)
        self.pages_kept = self.settings.keep_pages and measure.keep_pages()
        if self.settings.keep_pages and not self.pages_kept:
            raise ValueError("--keep-pages needs glibc, which this system lacks; leave it out.")
        self.load = os.getloadavg()[0]
        self.end = measure.clock() + float(self.settings.limit or 0)
        self.copies: list[float] = []  # bandwidths measured
        self.records: list[dict[str, Any]] = []
        self.not_run: list[dict[str, Any]] = []
        self._last: Prepared | None = None

    def time(self, case: Case, run: Run) -> dict[str, Any]:
        """Checks a run against float64, times it and notes what came out.

        Args:
            case: the case.
            run: one of its runs.

        Raises:
            NotRun: where it was not timed; ``Wrong`` where its numbers are not right.
        """
        try:
            if self.over():
                raise NotRun("the time limit was reached (--limit)")
            with warnings.catch_warnings():
                # What a rival's library or the compiler warns of is not ours to change.
                warnings.simplefilter("ignore")
                record = self._time(case, run)
        except NotRun as reason:
            self.leave_out([(case, run)], str(reason), wrong=isinstance(reason, Wrong))
            raise
        self.records.append(record)
        return record

    def over(self) -> bool:
        """Returns whether the time for all runs is up."""
        return measure.clock() > self.end

    def leave_out(self, runs: Iterable[tuple[Case, Run]], reason: str, wrong: bool = False) -> None:
        """Notes runs that were not timed, and why."""
        for case, run in runs:
            entry = {"case": case.name, **asdict(run), "wrong": wrong, "reason": reason}
            self.not_run.append(entry)

    def _time(self, case: Case, run: Run) -> dict[str, Any]:
        if self._last is None or self._last.case is not case:
            self._last = None  # its memory first
            self._last = Prepared(case, self.device)
        steps, errors = self._last.checked(run)
        copy = self._copy_bandwidth(anew=run.who == "mtlfast" and run.level == "call")
        work = measure.rotate(steps)
        rounds, iterations = measure.plan(work, len(steps), float(self.settings.seconds or 0))
        others = measure.Others()
        loadavg = os.getloadavg()[0]
        seconds = measure.rounds_of(work, rounds, iterations)
        load = others.load()
        stats = measure.statistics(seconds)
        moved = case.bytes_moved(run.passes)
        described = ("loss", "what", "shape", "dtype", "data", "family")
        record = {
            "case": case.name,
            **{name: getattr(case, name) for name in described},
            **asdict(run),
            "elements": case.elements,
            "bytes": moved,
            "gradient_bytes": self._last.gradient_bytes,
            **stats,
            "iterations": iterations,
            "ns_per_element": stats["median"] * 1e9 / case.elements,
            "gb_per_s": moved / stats["median"] / 1e9,
            "copy_share": moved / stats["median"] / copy,
            "copy_gb_per_s": copy / 1e9,
            "input_copies": len(steps),
            "load": load,
            "loadavg": loadavg,
            "busy": load > measure.QUIET,
            "tolerance": self._last.tolerance,
            **errors,
        }
        if run.level != "graph":
            if run.passes != "fwd":
                record["peak_extra_bytes"] = measure.peak_extra_bytes(steps[0], self.device)
            if self.device == "cuda":
                record |= measure.launches_and_syncs(steps[0])
        return record

    def _copy_bandwidth(self, anew: bool) -> float:
        """Returns the copy bandwidth in bytes per second, as of now or as last measured.

        It drifts with what else uses the memory of the machine, so each of our runs has its own.
        """
        if anew or not self.copies:
            self.copies.append(measure.copy_bandwidth(self.device))
        return self.copies[-1]

    def content(self) -> dict[str, Any]:
        """Returns all that was found, as bench.json holds it."""
        copies = [copy / 1e9 for copy in self.copies]
        names = ("MALLOC_", "GLIBC_T", "OMP_", "KMP_")
        return {
            "format": FORMAT,
            "machine": machine(self.device),
            "settings": {
                **asdict(self.settings),
                "keep_pages": self.pages_kept,
                "environment": {k: v for k, v in os.environ.items() if k.startswith(names)},
                "load_at_start": self.load,
            },
            "copy_gb_per_s": {"median": median(copies), "min": min(copies), "max": max(copies)}
            if copies
            else {},
            "runs": self.records,
            "not_run": self.not_run,
        }


def machine(device: str) -> dict[str, Any]:
    """Returns what the figures depend on."""
    facts = {
        "device": device,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(terse=True),
        "mtlfast": mtlfast.__version__,
        "backends": {name: sorted(on) for name, on in mtlfast.available_backends().items()},
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return facts


def processor() -> str:
    """Returns the CPU's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model na"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
