"""The rows of near_rows.py in Triton's interpreter: run by test_triton.py."""

import pytest
import torch
import triton_interpreted  # noqa: F401 -- it rounds the interpreter's exp and log once
from accuracy import FOLDER
from near_rows import (
    LIE,
    NEAR,
    SPREADS,
    as_decided,
    assert_no_radial_slope,
    assert_rule,
    computed,
    rows_of,
    scale_of,
)

import mtlfast.functional as MF

# Every loss at one spread, every spread in turn: a hundred interpreted cases would be a minute.
DEALT = [
    (near, spread)
    for i, near in enumerate(NEAR)
    for k, spread in enumerate(SPREADS)
    if FOLDER is not None or i % 6 == k
]


@pytest.mark.parametrize("near, spread", DEALT, ids=str)
def test_near_rows_keep_their_digits(near, spread):
    lie = LIE[(NEAR.index(near) + SPREADS.index(spread)) % len(LIE)]
    rows = rows_of(near, spread, lie, torch.float32, (2, 24))
    got = computed(near, rows, backend="triton")
    assert_no_radial_slope(rows, got[1:])
    plain = computed(near, rows, backend="reference")
    exact = computed(near, [row.double() for row in rows], backend="reference")
    got, plain = (as_decided(near, rows, found, exact) for found in (got, plain))
    if near.options.get("p", 2.0) == 2.0 or spread >= 1e-3:
        for i, four in enumerate(zip(got, plain, exact, scale_of(near, rows), strict=True)):
            assert_rule(f"{lie} {i}", *four)


def test_a_soft_loss_counts_every_row():
    rows = torch.tensor([[[0.0], [0.0]], [[1.0], [0.0]], [[1.0], [150.0]]])
    options = {"soft": True, "eps": 0.0, "backend": "triton"}
    counted = MF.triplet_margin_loss(*rows, reduction="nonzero", **options)
    assert torch.equal(counted, MF.triplet_margin_loss(*rows, reduction="mean", **options))
