"""Fixtures that several test files share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Lets torch use one thread: a busy machine pays for OpenMP's barriers many times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
