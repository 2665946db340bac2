"""Our kernels alone, on the cases of ``mtlfast bench``, under pytest-benchmark.

    make bench-compare

saves what it measures in runs/kernels the first time, and compares with that from then on. The same
checks against float64 come first. The GPU is taken where there is one, else two threads.
"""

from functools import lru_cache

import pytest
import torch

from mtlfast.bench import measure
from mtlfast.bench.case import NotRun, Run
from mtlfast.bench.cases import chosen
from mtlfast.bench.prepared import Prepared, Wrong
from mtlfast.bench.session import Settings

SETTINGS = Settings().resolved()
# A loss without ops of its own is timed by its call.
RUNS = [
    (case, Run("mtlfast", case.levels[0], passes))
    for case in chosen(SETTINGS.device)
    for passes in case.passes
]
NAMES = [f"{case.name} {run.passes}".replace(" ", "-") for case, run in RUNS]
prepared = lru_cache(maxsize=1)(Prepared)  # the passes of a case share its inputs


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(SETTINGS.threads)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case, run", RUNS, ids=NAMES)
@pytest.mark.benchmark(timer=measure.clock)
def bench_kernel(benchmark, case, run):
    try:
        steps, _ = prepared(case, SETTINGS.device).checked(run)
    except Wrong as reason:
        pytest.fail(str(reason))
    except NotRun as reason:
        pytest.skip(str(reason))
    work = measure.rotate(steps)
    rounds, iterations = measure.plan(work, len(steps), SETTINGS.seconds)
    benchmark.pedantic(work, rounds=rounds, iterations=iterations)
