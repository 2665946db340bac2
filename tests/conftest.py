"""Fixtures that several test files share."""

import accuracy
import pytest
import torch

from mtlfast.ops import inbatch, native, reference, reference_inbatch


@pytest.fixture
def one_thread():
    """Lets torch use one thread: a busy machine pays for OpenMP's barriers many times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_work(monkeypatch):
    """Fails where a loss is computed although the call is bad."""

    def computed(*_):
        pytest.fail("computed before the arguments were checked")

    for family in ("pointwise", "rows"):
        monkeypatch.setattr(reference, family, computed)
        if native._C is not None:
            monkeypatch.setattr(native, f"{family}_forward", computed)
    monkeypatch.setattr(reference_inbatch, "inbatch", computed)
    monkeypatch.setattr(inbatch, "forward", computed)


def pytest_sessionfinish():
    """Keeps the worst cases of this process, one of several that share the work."""
    accuracy.write()
