"""Options and session of the benches, and the table at their end."""

import os
import platform
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
import timing_plot
import timing_table
import torch
from timing_tools import chosen_device, clock, copy_bandwidth, keep_pages

SECONDS = {"cpu": 0.4, "cuda": 0.08}  # per run
QUICK_SECONDS = 0.15
LIMIT = {"cpu": 330, "cuda": 90}  # seconds for all runs; then the rest is skipped, and says so
RESULTS = pytest.StashKey()
TRAINING = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("mtlfast benches")
    group.addoption("--quick", action="store_true", help="few cases, few rounds")
    group.addoption("--threads", type=int, default=2, help="CPU threads (default 2)")
    group.addoption("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    group.addoption("--seconds", type=float, help="time per run (default 0.4; on a GPU 0.08)")
    group.addoption("--limit", type=float, help="time for all runs (default 330; on a GPU 90)")
    group.addoption(
        "--keep-pages",
        action="store_true",
        help="make glibc keep freed memory, for us and all rivals alike",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.option.benchmark_quiet = True  # our table says more
    # That nothing was timed and so nothing is saved is no error.
    config.addinivalue_line("filterwarnings", "default:Not saving anything:Warning")


class Session:
    """What all runs share, and their results."""

    def __init__(self, config):
        self.device = chosen_device(config)
        torch.set_num_threads(config.getoption("threads"))
        quick = config.getoption("quick")
        seconds = min(SECONDS[self.device], QUICK_SECONDS if quick else 1)
        self.budget = config.getoption("seconds") or seconds
        self.end = clock() + (config.getoption("limit") or LIMIT[self.device])
        self.kept = config.getoption("keep_pages") and keep_pages()
        self.copies = []  # bandwidths measured
        self.results = {}

    def copy_bandwidth(self, anew):
        """Returns the copy bandwidth in bytes per second, as of now or as last measured.

        It drifts with what else uses the memory of the machine, so each of our runs has its own.
        """
        if anew or not self.copies:
            self.copies.append(copy_bandwidth(self.device))
        return self.copies[-1]

    def over(self):
        """Whether the time for all runs is up."""
        return clock() > self.end

    def add(self, case, run, result):
        self.results[case, run] = result

    def notes(self):
        """Returns what a reader must know beside the table."""
        settings = [
            f"{k}={v}" for k, v in os.environ.items() if k.startswith(("MALLOC_", "GLIBC_T"))
        ]
        settings += ["freed memory kept (--keep-pages)"] if self.kept else []
        machine = torch.cuda.get_device_name() if self.device == "cuda" else platform.machine()
        if self.device == "cpu":
            machine += (
                f" {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
            )
        return [
            f"{machine}; torch {torch.__version__}; Python {platform.python_version()}.",
            f"Copy bandwidth {median(self.copies) / 1e9:.1f} GB/s, read + written (from "
            f"{min(self.copies) / 1e9:.1f} to {max(self.copies) / 1e9:.1f}: measured just before "
            "each of our runs, and shares are of that).",
            f"Allocator: {', '.join(settings) or 'as the system sets it'}, for all alike. glibc "
            "maps blocks of 32 MiB and more afresh on every call, and page faults then dominate.",
            *timing_table.LEGEND,
        ]


@pytest.fixture(scope="session")
def session(request):
    session = request.config.stash[RESULTS] = Session(request.config)
    return session


@pytest.fixture(scope="session")
def training_lines(request):
    """What the benches of training found, in words."""
    return request.config.stash.setdefault(TRAINING, [])


def pytest_terminal_summary(terminalreporter, config):
    if lines := config.stash.get(TRAINING, None):
        terminalreporter.section("mtlfast's trainer")
        for line in lines:
            terminalreporter.write_line(line)
    session = config.stash.get(RESULTS, None)
    if session is None or not session.results:
        return
    rows = timing_table.rows(session.results, session.device)
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    notes = [*session.notes(), *(f"{number} runs {why}" for why, number in reasons.items())]
    terminalreporter.section("mtlfast against the rest")
    notes = [*timing_table.short(rows), *notes]
    for line in (*timing_table.plain(rows), "", *notes):
        terminalreporter.write_line(line)
    json = config.getoption("benchmark_json")
    if json:
        # Older pytest-benchmarks hand over the opened file.
        path = Path(json.name if hasattr(json, "write") else json).with_suffix(".md")
        path.write_text("\n".join(timing_table.markdown(rows, notes)) + "\n")
        terminalreporter.write_line(f"Table: {path}")
        picture = path.with_name("scaling.png")
        if timing_plot.draw(session.results, picture):
            terminalreporter.write_line(f"Picture: {picture}")
