"""mtlfast._numerics, or why it is not here."""

import itertools
import os

import pytest

try:
    import mtlfast._numerics as numerics  # noqa: F401
except ModuleNotFoundError:
    if os.environ.get("MTLFAST_CI"):
        raise
    pytest.skip("this installation has no mtlfast._numerics", allow_module_level=True)

# What NVIDIA documents for ex2.approx, div.approx and logf, both ways: 2, 2 and 1 ulp.
CORNERS = list(itertools.product((-2, 0, 2), (-2, 0, 2), (-1, 0, 1)))
