"""The global random generators: Python's, NumPy's, torch's and the device's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["kept", "restore", "state"]


def state(device: torch.device) -> dict[str, Any]:
    """Returns the state of each generator, as a checkpoint can hold it."""
    numpy_state: Any = np.random.get_state(legacy=False)
    numpy_state["state"]["key"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    found = {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state()}
    if device.type != "cpu":
        found["device"] = torch.get_device_module(device).get_rng_state()
    return found


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Sets each generator to what ``state`` returned, on this device or on another."""
    random.setstate(state["python"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    numpy_state = {**state["numpy"], "state": {**state["numpy"]["state"], "key": key}}
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"])


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Within it random numbers may be drawn that leave no trace."""
    before = state(device)
    try:
        yield
    finally:
        restore(before, device)
