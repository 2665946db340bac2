"""A pytest plugin: tests are collected as on a machine with a GPU and a native part for it."""

import torch

torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda *_: (9, 0)

from mtlfast.ops import backends, native  # noqa: E402


def pytest_collection_finish(session):
    """Says what else is asked: which tests `-m "not gpu"` would run, who has losses on a batch."""
    for name in ("native", "triton"):
        print(f"reason {name} {backends._reason(name, 'cuda', torch.float32, 'inbatch')}")
    for item in session.items:
        if item.get_closest_marker("gpu") is None:
            print(f"unmarked {item.nodeid}")


native.FACTS |= {"cuda": "13.0", "cuda_architectures": "9.0"}
