"""Options and session of the benches, and the table at their end."""

import importlib.util
from pathlib import Path

import goals
import pytest
import scaling

from mtlfast.bench import report
from mtlfast.bench.case import runs
from mtlfast.bench.cases import chosen
from mtlfast.bench.session import Session, Settings

SETTINGS = pytest.StashKey()
SESSION = pytest.StashKey()
TRAINING = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("mtlfast benches")
    group.addoption("--quick", action="store_true", help="few cases, few rounds")
    group.addoption("--threads", type=int, default=2, help="CPU threads (default 2)")
    group.addoption("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    group.addoption("--seconds", type=float, help="time per run")
    group.addoption("--limit", type=float, help="time for all runs; then the rest is skipped")
    group.addoption("--keep-pages", action="store_true", help="make glibc keep freed memory")
    group.addoption("--output", type=Path, help="folder for bench.json, bench.md and bench.png")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.option.benchmark_quiet = True  # our table says more
    names = ("device", "threads", "quick", "seconds", "limit", "keep_pages")
    settings = Settings(**{name: config.getoption(name) for name in names})
    config.stash[SETTINGS] = settings.resolved()


def pytest_generate_tests(metafunc):
    """Lists the runs of every case for the device that the options choose."""
    if "run" not in metafunc.fixturenames:
        return
    settings = metafunc.config.stash[SETTINGS]
    both = [
        (case, run)
        for case in chosen(settings.device, settings.quick)
        for run in runs(case, settings.device)
    ]
    ids = [
        f"{case.name} {run.who} {run.level} {run.passes}".replace(" ", "-") for case, run in both
    ]
    metafunc.parametrize(("case", "run"), both, ids=ids)


@pytest.fixture(scope="session")
def session(request):
    session = request.config.stash[SESSION] = Session(request.config.stash[SETTINGS])
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
    session = config.stash.get(SESSION, None)
    if session is None or not session.records:
        return
    content = session.content()
    terminalreporter.section("mtlfast against the rest")
    for line in (*report.lines(content), "", *goals.verdicts(session.records, session.device)):
        terminalreporter.write_line(line)
    output = config.getoption("output")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        pictured = importlib.util.find_spec("matplotlib") is not None
        written = report.write(content, output, pictured)
        if pictured and scaling.draw(session.records, output / "scaling.png"):
            written.append(output / "scaling.png")
        terminalreporter.write_line(f"Written: {', '.join(map(str, written))}.")
