"""Where the real data is, and how a test asks for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def folder(name):
    """Returns a folder of the real data; the test is skipped where it is not there."""
    path = Path(os.environ.get("MTLFAST_DATA", BESIDE), name)
    if not path.is_dir():
        pytest.skip(f"needs the real data: no folder {path}; set MTLFAST_DATA")
    return path
