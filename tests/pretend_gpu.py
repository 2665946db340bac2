"""A pytest plugin: tests are collected as on a machine with a GPU and a native part for it."""

import torch

torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda *_: (9, 0)

from mtlfast.ops import native  # noqa: E402


def pytest_collection_finish(session):
    """Says which tests `-m "not gpu"` would run: a second collection costs ten seconds."""
    for item in session.items:
        if item.get_closest_marker("gpu") is None:
            print(f"unmarked {item.nodeid}")


native.BUILD |= {"cuda": "13.0", "cuda_architectures": "9.0"}
