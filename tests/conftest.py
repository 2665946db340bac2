"""Fixtures that several test files share, and the option that runs a share of the tests."""

import os
import zlib
from collections import defaultdict

import accuracy
import pytest
import torch

from mtlfast.ops import inbatch, native, reference_ops


def pytest_addoption(parser):
    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        metavar="N",
        help="run one test in N of each file, at least one, always the same",
    )


def pytest_configure():
    """Lets torch use one thread, and what is started from here too, unless OMP_NUM_THREADS is set.

    Tests take the cores already: OpenMP's barriers on busy ones cost more than all else.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Keeps the tests with the smallest checksums of their names: spread over any parameters.

    Slow ones run first: at the end they would leave the other workers without work.
    """
    one_in = config.getoption("one_in")
    files = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    kept = set()
    for tests in files.values():
        tests.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        kept.update(tests[: -(-len(tests) // one_in)])
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def one_thread():
    """Lets torch use one thread: a busy machine pays for OpenMP's barriers many times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_pictures(monkeypatch):
    """Runs draw no pictures, which takes longer than all the rest."""
    monkeypatch.setattr("mtlfast.train.report.pictures.draw", lambda *_, **__: None)


@pytest.fixture
def no_work(monkeypatch):
    """Fails where a loss is computed although the call is bad; a batch without rows is no work."""

    def computed(function):
        def compute(*given):
            tensors = torch.utils._pytree.tree_leaves(given)
            if any(isinstance(t, torch.Tensor) and t.numel() for t in tensors):
                pytest.fail("computed before the arguments were checked")
            return function(*given)

        return compute

    for family in ("pointwise", "rows"):
        monkeypatch.setattr(reference_ops, family, computed(getattr(reference_ops, family)))
        if native.PATH is not None:
            forward = getattr(native, f"{family}_forward")
            monkeypatch.setattr(native, f"{family}_forward", computed(forward))
    monkeypatch.setattr(reference_ops, "inbatch", computed(reference_ops.inbatch))
    monkeypatch.setattr(inbatch, "forward", computed(inbatch.forward))


def pytest_sessionfinish():
    """Keeps the worst cases of this process, one of several that share the work."""
    accuracy.write()
