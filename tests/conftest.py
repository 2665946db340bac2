"""Fixtures that several test files share."""

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
    """Fails where a loss is computed although the call is bad; a batch without rows is no work."""

    def computed(function):
        def compute(*given):
            tensors = torch.utils._pytree.tree_leaves(given)
            if any(isinstance(t, torch.Tensor) and t.numel() for t in tensors):
                pytest.fail("computed before the arguments were checked")
            return function(*given)

        return compute

    for family in ("pointwise", "rows"):
        monkeypatch.setattr(reference, family, computed(getattr(reference, family)))
        if native._C is not None:
            forward = getattr(native, f"{family}_forward")
            monkeypatch.setattr(native, f"{family}_forward", computed(forward))
    monkeypatch.setattr(reference_inbatch, "inbatch", computed(reference_inbatch.inbatch))
    monkeypatch.setattr(inbatch, "forward", computed(inbatch.forward))
