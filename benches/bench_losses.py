"""The cases of ``mtlfast bench`` under pytest-benchmark."""

import pytest

from mtlfast.bench.case import NotRun
from mtlfast.bench.measure import clock
from mtlfast.bench.session import Wrong

pytestmark = pytest.mark.benchmark(timer=clock)


def bench_loss(benchmark, session, case, run):
    def timer(work, rounds, iterations):
        benchmark.pedantic(work, rounds=rounds, iterations=iterations)
        return benchmark.stats and benchmark.stats.stats.data  # none under --benchmark-disable

    try:
        record = session.time(case, run, timer)
    except Wrong as reason:
        pytest.fail(str(reason))
    except NotRun as reason:
        pytest.skip(str(reason))
    if record is not None:
        benchmark.extra_info.update(record)
