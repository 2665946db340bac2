"""Normalised rows that nearly coincide keep their digits, as trained embeddings do."""

import pytest
import torch
from backends import each_backend, each_fused_backend
from near_rows import (
    FORMULAS,
    LIE,
    NEAR,
    SPREADS,
    as_decided,
    assert_no_radial_slope,
    assert_rule,
    computed,
    extended,
    rows_of,
    scale_of,
)

from mtlfast.ops import native

pytestmark = pytest.mark.usefixtures("one_thread")

each_near = pytest.mark.parametrize("near", NEAR, ids=str)
each_spread = pytest.mark.parametrize("spread", SPREADS)


@each_backend
@each_near
@each_spread
def test_the_length_of_a_row_has_no_slope(near, spread, backend):
    for lie in LIE:
        for dtype in (torch.float32, torch.float64):
            if dtype in backend.dtypes:
                for shape in ((12, 40), (3, 257)):
                    rows = [r.to(backend.device) for r in rows_of(near, spread, lie, dtype, shape)]
                    _, *gradients = computed(near, rows, backend=backend.name)
                    assert_no_radial_slope(rows, gradients)


@each_fused_backend
@each_near
@each_spread
def test_values_and_gradients_of_near_rows_match_float64(near, spread, backend):
    if near.options.get("p", 2.0) != 2.0 and spread < 1e-3:
        pytest.skip("a power of a difference has the digits of the difference")
    for lie in LIE:
        rows = rows_of(near, spread, lie, torch.float32, (12, 40))
        moved = [row.to(backend.device) for row in rows]
        exact = computed(near, [row.double() for row in rows], backend="reference")
        got, plain = (
            as_decided(near, rows, [t.cpu() for t in computed(near, moved, backend=name)], exact)
            for name in (backend.name, "reference")
        )
        for i, four in enumerate(zip(got, plain, exact, scale_of(near, rows), strict=True)):
            assert_rule(f"{lie} {i}", *four)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("near", [n for n in NEAR if str(n) in FORMULAS], ids=str)
@each_spread
def test_float64_rows_match_mpmath(near, spread, backend):
    if backend == "native" and native.PATH is None:
        pytest.skip("this installation has no native part")
    for lie in LIE:
        rows = rows_of(near, spread, lie, torch.float64, (4, 16))
        got = computed(near, rows, backend=backend)
        plain = computed(near, rows, backend="reference")
        for i, four in enumerate(
            zip(got, plain, extended(near, rows), scale_of(near, rows), strict=True)
        ):
            assert_rule(f"{lie} {i}", *four)


@pytest.mark.parametrize("spread, rounding_decides", [(1e-7, True), (0.3, False)])
def test_rounding_alone_may_choose_the_swapped_distance(spread, rounding_decides):
    near = next(near for near in NEAR if near.options.get("swap"))
    wrong = near._replace(options=near.options | {"swap": False})
    rows = [row.double() for row in rows_of(near, spread, "pairs", torch.float32, (12, 40))]
    exact = computed(near, rows, backend="reference")
    for order in ([0, 1, 2], [1, 0, 2]):
        value, *found = computed(wrong, [rows[k] for k in order], backend="reference")
        found = as_decided(near, rows, [value, *(found[k] for k in order)], exact)
        errors = [(t - e).abs().max() for t, e in zip(found[1:], exact[1:], strict=True)]
        assert (max(errors) < 1e-12) == rounding_decides
