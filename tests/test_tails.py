"""Confident logits: every classification loss keeps its digits, on every backend."""

import pytest
import torch
from backends import each_backend, each_fused_backend
from tails import TAILS, assert_tail

import mtlfast.functional as MF

pytestmark = pytest.mark.usefixtures("one_thread")

each_tail = pytest.mark.parametrize("index", range(len(TAILS)), ids=lambda i: str(TAILS[i]))
INFINITE = torch.tensor([[float("inf")], [-float("inf")]])


@each_backend
@each_tail
def test_confident_logits_keep_their_digits(index, backend):
    for dtype in backend.dtypes:
        for label in (0, 1):
            assert_tail(index, label, dtype, backend.device, backend.name)


@each_backend
@each_tail
def test_infinite_logits_have_the_reference_gradient(index, backend):
    """inf where the loss is, and never a NaN that the specification does not have."""
    tail = TAILS[index]
    for dtype in backend.dtypes:
        for label in (0, 1):
            x = torch.tensor([float("inf"), -float("inf")], dtype=dtype, device=backend.device)
            got = tail(x, label, backend=backend.name)
            expected = tail(x.double().cpu(), label, backend="reference")
            for one, other in zip(got, expected, strict=True):
                eps = torch.finfo(dtype).eps
                torch.testing.assert_close(
                    one.cpu().double(), other, rtol=8 * eps, atol=1e-30, equal_nan=True
                )


@each_backend
def test_an_infinite_logit_has_a_finite_slope_without_a_focus(backend):
    for label in (0, 1):
        x = (INFINITE[:1] if label == 0 else INFINITE[1:]).to(backend.device).requires_grad_()
        y = torch.full_like(x, label)
        loss = MF.sigmoid_focal_loss(x, y, alpha=-1, gamma=0, backend=backend.name)
        (slope,) = torch.autograd.grad(loss.sum(), x)
        assert loss.isinf().all() and slope.item() == (1 if label == 0 else -1)


@each_fused_backend
@pytest.mark.parametrize("loss", ["sigmoid_focal_loss", "asymmetric_loss"])
def test_smoothed_labels_are_not_rounded_before_the_loss(loss, backend):
    """With soft labels, in double on the CPU; half an eps is what rounding the result takes."""
    if backend.device != "cpu":
        pytest.skip("a GPU has float32 labels")
    function, smoothing = getattr(MF, loss), 0.1
    x = torch.linspace(-8, 8, 401)[:, None]
    for label in (0.0, 1.0):
        y = torch.full_like(x, label)
        options = {"reduction": "none", "backend": backend.name}
        got = function(x, y, label_smoothing=smoothing, **options).double()
        options["backend"] = "reference"
        exact = function(x.double(), y.double(), label_smoothing=smoothing, **options)
        rounded = y * (1 - smoothing) + smoothing / 2
        other = function(x.double(), rounded.double(), **options)
        allowed = (torch.finfo(torch.float32).eps / 2 + 2e-8) * exact
        assert ((got - exact).abs() <= allowed).all()
        assert not ((other.float().double() - exact).abs() <= allowed).all()
