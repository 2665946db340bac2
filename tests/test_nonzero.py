"""reduction="nonzero" on rows: which of them are counted."""

import pytest
import torch
from backends import each_backend
from test_rows import loss_and_gradients

import mtlfast.functional as MF

pytestmark = pytest.mark.usefixtures("one_thread")
# Of the second row softplus(d_ap - d_an + 1) underflows in float32.
ROWS = torch.tensor([[[0.0], [0.0]], [[1.0], [0.0]], [[1.0], [150.0]]])


@each_backend
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_a_soft_loss_counts_every_row(swap, squared, backend):
    options = {"soft": True, "swap": swap, "squared": squared, "backend": backend.name}
    for dtype in backend.dtypes:
        rows = [row.to(backend.device, dtype) for row in ROWS]
        got, expected = (
            loss_and_gradients(
                lambda *r, how=how: MF.triplet_margin_loss(*r, reduction=how, eps=0.0, **options),
                *rows,
            )
            for how in ("nonzero", "mean")
        )
        for one, other in zip(got, expected, strict=True):
            assert torch.equal(one, other)


@each_backend
def test_the_soft_loss_of_an_underflow_is_half_of_the_other(backend):
    rows = [row.to(backend.device) for row in ROWS]
    loss = MF.triplet_margin_loss(*rows, soft=True, reduction="nonzero", backend=backend.name)
    torch.testing.assert_close(loss.cpu(), torch.tensor(0.6566308), rtol=1e-5, atol=0)


@each_backend
@pytest.mark.parametrize("soft", [False, True])
def test_a_row_of_weight_0_is_counted_by_its_loss(soft, backend):
    """The loss before the weight says whether a row is positive."""
    anchor = torch.zeros(4, 1, device=backend.device)
    positive = torch.ones(4, 1, device=backend.device)
    negative = torch.tensor([[1.0], [1.0], [1.0], [9.0]], device=backend.device)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0], device=backend.device)
    options = {"eps": 0.0, "soft": soft, "sample_weight": weight, "backend": backend.name}
    rows = (anchor, positive, negative)
    total = MF.triplet_margin_loss(*rows, reduction="sum", **options)
    got = MF.triplet_margin_loss(*rows, reduction="nonzero", **options)
    torch.testing.assert_close(got, total / (4 if soft else 3))
