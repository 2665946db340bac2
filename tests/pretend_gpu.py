"""A pytest plugin: tests are collected as on a machine with a GPU and a native part for it."""

import torch

torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda *_: (9, 0)

from mtlfast.ops import native  # noqa: E402

native.BUILD |= {"cuda": "13.0", "cuda_architectures": "9.0"}
