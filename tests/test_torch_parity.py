"""Drop-in: the same numbers as torch, torchvision and timm where only their arguments are given."""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from accuracy import FOLDER, Output, assert_accurate
from backends import each_backend
from published import asymmetric_sum, sigmoid_focal_loss
from torch import nn

import mtlfast
import mtlfast.functional as MF

pytestmark = pytest.mark.usefixtures("one_thread")
OPS = ("binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss")
each_op = pytest.mark.parametrize("name", OPS)
LEGACY = [(a, b) for a in (None, True, False) for b in (None, True, False)][1:]
# torch's own for the wide types; in half precision it rounds after every step, we only once.
TOLERANCE = {
    torch.float64: {"rtol": 1e-7, "atol": 1e-7},
    torch.float32: {"rtol": 1.3e-6, "atol": 1e-5},
    torch.bfloat16: {"rtol": 3e-2, "atol": 2e-2},
    torch.float16: {"rtol": 4e-3, "atol": 2e-3},
}


def loss_and_gradients(function, input, *args, leaves=(), **kwargs):
    """Returns the loss, and its gradients after a fixed upstream one."""
    loss = function(input, *args, **kwargs)
    upstream = (0.5 + torch.arange(loss.numel()) % 5 / 4).reshape(loss.shape).to(loss)
    return loss, *torch.autograd.grad(loss, [input, *leaves], upstream)


def assert_same(got, expected, dtype):
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        torch.testing.assert_close(one, other, **TOLERANCE[dtype])


@pytest.fixture(scope="module")
def op_db():
    """PyTorch's own table of operations with sample inputs, by name."""
    pytest.importorskip("expecttest", reason="torch's own sample inputs need expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hypothesis, which it wishes for, is not needed
        from torch.testing._internal.common_methods_invocations import op_db
    return {op.name.removeprefix("nn.functional."): op for op in op_db}


def doubled(value):
    """Returns a tensor in float64, anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().double().requires_grad_(value.requires_grad)


def excess_of(function, loss, input, *args, **options):
    """Returns what the absolute values of a loss's terms exceed it by.

    torch's samples have weights of either sign, whose sums cancel.
    """
    options = {k: v for k, v in options.items() if k not in ("reduction", "size_average", "reduce")}
    elements = function(input, *args, reduction="none", **options).detach()
    total = elements.sum()
    if loss.shape == elements.shape or total == 0:
        return 0.0
    return loss.detach().abs() * (elements.abs().sum() / total.abs() - 1)


@each_backend
@pytest.mark.parametrize("name", [*OPS, "triplet_margin_loss"])
def test_torchs_own_samples_give_torchs_numbers(name, backend, op_db):
    """The loss by the accuracy rule, torch's own numbers being the plain ones.

    Every other sample in a dtype, the rest in the next one; or for `make accuracy` all in each.
    """
    ours, theirs = getattr(MF, name), getattr(F, name)
    seen = 0
    every = 1 if FOLDER is not None else 2
    for turn, dtype in enumerate(backend.dtypes):
        samples = op_db[name].sample_inputs(backend.device, dtype, requires_grad=True)
        for sample in itertools.islice(samples, turn % every, None, every):
            x, rest, options = sample.input, sample.args, sample.kwargs
            needed = [y for y in rest if y.requires_grad]
            got = loss_and_gradients(ours, x, *rest, leaves=needed, backend=backend.name, **options)
            expected = loss_and_gradients(theirs, x, *rest, leaves=needed, **options)
            seen += 1
            x, *rest = map(doubled, (x, *rest))
            options = {key: doubled(value) for key, value in options.items()}
            needed = [y for y in rest if y.requires_grad]
            exact = loss_and_gradients(theirs, x, *rest, leaves=needed, **options)
            excess = excess_of(theirs, exact[0], x, *rest, **options)
            case = f"torch's sample {seen}, {list(options)}"
            judged = Output(f"{name} as torch", str(backend), dtype, "loss", case)
            assert_accurate(judged, got[0], expected[0], exact[0], excess)
            if dtype.itemsize > 2:
                assert_same(got[1:], expected[1:], dtype)
                continue
            # torch's 16-bit gradients are sums of rounded terms, as large as any of the gradient.
            for i, three in enumerate(zip(got[1:], expected[1:], exact[1:], strict=True), 1):
                largest = three[2].abs().max() if three[2].numel() else 0.0
                assert_accurate(judged._replace(name=f"gradient {i}"), *three, largest)
    assert seen >= 6 * len(backend.dtypes) / every


@each_op
def test_legacy_reduction_arguments_mean_what_they_mean_in_torch(name):
    x = torch.randn(6, 4, requires_grad=True)
    y = torch.rand(6, 4)
    for size_average, reduce in LEGACY:
        given = {"size_average": size_average, "reduce": reduce}
        with pytest.warns(UserWarning, match="size_average and reduce args"):
            expected = loss_and_gradients(getattr(F, name), x, y, **given)
        with pytest.warns(UserWarning, match="size_average and reduce args"):
            got = loss_and_gradients(getattr(MF, name), x, y, **given)
        assert_same(got, expected, torch.float32)


@pytest.mark.parametrize(
    "name", [name for name in OPS if name != "binary_cross_entropy_with_logits"]
)
def test_regression_broadcasts_with_torchs_warning(name):
    ours, theirs = getattr(MF, name), getattr(F, name)
    x = torch.randn(5, 1, requires_grad=True)
    for reduction in ("none", "mean", "sum"):
        for y in (torch.randn(5, 3), torch.randn(1), torch.randn(2, 5, 1)):
            with pytest.warns(UserWarning, match="different to the input size") as said:
                got = loss_and_gradients(ours, x, y, reduction=reduction)
            assert said[0].filename == __file__
            with pytest.warns(UserWarning, match="different to the input size") as expected_said:
                expected = loss_and_gradients(theirs, x, y, reduction=reduction)
            assert str(said[0].message) == str(expected_said[0].message)
            assert_same(got, expected, torch.float32)
    with pytest.raises(ValueError, match="target must have the shape of input"):
        ours(x, torch.randn(5, 3), return_tasks=True)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss"])
def test_weighted_mean_divides_by_the_weight(name):
    x, y = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    weight = torch.rand(6, 4) + 0.5
    for reduction in ("none", "sum", "mean"):
        given = {"weight": weight, "reduction": reduction}
        got = loss_and_gradients(getattr(MF, name), x, y, **given)
        assert_same(got, loss_and_gradients(getattr(F, name), x, y, **given), torch.float32)


@each_op
def test_mixed_dtypes_promote_as_in_torch(name):
    """Save that torch's BCE gives the dtype of the target, even if that is the narrower one."""
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for one, other in itertools.permutations(dtypes, 2):
        x = torch.randn(6, 4).to(one).requires_grad_()
        y = torch.rand(6, 4).to(other)
        got = loss_and_gradients(getattr(MF, name), x, y)
        wide = torch.promote_types(one, other)
        assert got[0].dtype == wide and got[1].dtype == one
        if name == "binary_cross_entropy_with_logits" and other != wide:
            continue
        try:
            expected = loss_and_gradients(getattr(F, name), x, y)
        except RuntimeError:  # of an input narrower than the target torch 2.11 has no gradient
            assert name == "mse_loss" and torch.__version__.startswith("2.11")
        else:
            assert_same(got, expected, torch.bfloat16)


@each_backend
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2), (-1, 2), (0.7, 0), (0.5, 1), (0.25, 1.5)])
def test_focal_loss_is_torchvisions(backend, alpha, gamma):
    x = 3 * torch.randn(50, 8, device=backend.device, requires_grad=True)
    y = torch.rand(50, 8, device=backend.device).round()
    got = loss_and_gradients(
        lambda *t: MF.sigmoid_focal_loss(*t, alpha, gamma, backend=backend.name), x, y
    )
    expected = loss_and_gradients(lambda *t: sigmoid_focal_loss(*t, alpha, gamma), x, y)
    assert_same(got, expected, torch.float32)


@each_backend
@pytest.mark.parametrize("options", [(4, 1, 0.05, 1e-8), (4, 0, 0.0, 1e-8), (2, 1, 0.2, 1e-3)])
def test_asymmetric_loss_is_its_authors(backend, options):
    x = 3 * torch.randn(50, 8, device=backend.device, requires_grad=True)
    y = torch.rand(50, 8, device=backend.device).round()
    got = loss_and_gradients(
        lambda *t: MF.asymmetric_loss(*t, *options, backend=backend.name), x, y
    )
    expected = loss_and_gradients(lambda *t: asymmetric_sum(*t, *options), x, y)
    assert_same(got, expected, torch.float32)


@each_backend
@each_op
def test_autocast_gives_torchs_float32(name, backend):
    ours, theirs = getattr(MF, name), getattr(F, name)
    for narrow in (torch.bfloat16, torch.float16):
        for dtype in (narrow, torch.float32):
            x = torch.randn(20, 6, device=backend.device).to(dtype).requires_grad_()
            y = torch.rand(20, 6, device=backend.device)
            for reduction in ("none", "mean", "sum"):
                with torch.autocast(backend.device, narrow):
                    got = loss_and_gradients(ours, x, y, reduction=reduction, backend=backend.name)
                    expected = loss_and_gradients(theirs, x, y, reduction=reduction)
                    same = loss_and_gradients(
                        ours, x, y.to(narrow), reduction=reduction, backend=backend.name
                    )
                assert got[0].dtype == same[0].dtype == torch.float32
                assert_same(got[:1], expected[:1], torch.float32)
                assert_same(got[1:], expected[1:], dtype)


MODULES = {
    "BCEWithLogitsLoss": ("binary_cross_entropy_with_logits", ("weight", "pos_weight")),
    "SigmoidFocalLoss": ("sigmoid_focal_loss", ()),
    "AsymmetricLoss": ("asymmetric_loss", ()),
    "MSELoss": ("mse_loss", ("weight",)),
    "L1Loss": ("l1_loss", ("weight",)),
    "SmoothL1Loss": ("smooth_l1_loss", ()),
}


@pytest.mark.parametrize("name", MODULES)
def test_module_equals_function(name):
    function, tensors = MODULES[name]
    x, y = torch.randn(6, 4, requires_grad=True), torch.rand(6, 4)
    options = {key: torch.rand(4) + 0.5 for key in (*tensors, "task_weight")}
    call = {"mask": torch.rand(6, 4) > 0.3, "sample_weight": torch.rand(6)}
    module = getattr(mtlfast, name)(**options, reduction="taskmean")
    expected = loss_and_gradients(
        getattr(MF, function), x, y, **options, **call, reduction="taskmean"
    )
    assert_same(loss_and_gradients(module, x, y, **call), expected, torch.float32)
    assert "taskmean" in repr(module)

    state = module.state_dict()
    assert set(state) == set(options)
    other = getattr(mtlfast, name)(**{key: torch.zeros(4) for key in options}, reduction="taskmean")
    other.load_state_dict(state)
    assert_same(loss_and_gradients(other, x, y, **call), expected, torch.float32)
    assert module.double().task_weight.dtype == torch.float64


@pytest.mark.parametrize("name", ["BCEWithLogitsLoss", "MSELoss", "L1Loss", "SmoothL1Loss"])
def test_module_replaces_torchs(name):
    ours, theirs = getattr(mtlfast, name)(), getattr(nn, name)()
    x, y = torch.randn(6, 4, requires_grad=True), torch.rand(6, 4)
    got, expected = (loss_and_gradients(module, x, y) for module in (ours, theirs))
    assert_same(got, expected, torch.float32)
    assert set(ours.state_dict()) == set(theirs.state_dict())


def test_pos_weight_is_part_of_the_state_as_in_torch():
    pos_weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    theirs = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
    ours = mtlfast.BCEWithLogitsLoss(pos_weight=torch.ones(4))
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.pos_weight, pos_weight)
    x, y = torch.randn(6, 4, requires_grad=True), torch.rand(6, 4)
    expected = loss_and_gradients(theirs, x, y)
    assert_same(loss_and_gradients(ours, x, y), expected, torch.float32)
