"""Options of modules are attributes that count; torch.fx; memory formats; torch's error classes."""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mtlfast
import mtlfast.functional as MF

A, B, C = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
X, Y = torch.randn(6, 4), torch.rand(6, 4).round()
POINTWISE = ("BCEWithLogitsLoss", "SigmoidFocalLoss", "AsymmetricLoss", "MSELoss", "L1Loss")
# What a module is called with, and another value for its options.
BATCHES = {
    **dict.fromkeys((*POINTWISE, "SmoothL1Loss"), (X, Y)),
    "ContrastiveLoss": (A, B, LABELS),
    **dict.fromkeys(("TripletMarginLoss", "NormalizedTripletLoss"), (A, B, C)),
    "HierarchicalTripletLoss": (A, [B, C]),
    **dict.fromkeys(("BatchTripletLoss", "BatchContrastiveLoss"), (A, LABELS)),
}
NEEDED = {"HierarchicalTripletLoss": {"margins": [0.5]}}
OTHER = {
    **dict.fromkeys(("margin", "alpha", "clip", "pos_margin", "neg_margin", "beta", "eps"), 0.7),
    **dict.fromkeys(("gamma", "gamma_neg", "gamma_pos", "p"), 3.0),
    **dict.fromkeys(("weight", "pos_weight", "task_weight"), torch.tensor([0.5, 1.0, 2.0, 3.0])),
    **dict.fromkeys(("scale", "bias"), 0.3),
    "label_smoothing": 0.2,
    "ignore_index": 1,
    "mask": Y > 0,
    "sample_weight": torch.rand(6),
    "return_tasks": True,
    "reduction": "sum",
    "distance": "manhattan",
    "mining": "hard",
    "margins": [0.3],
    "ref_embeddings": B,
    "ref_labels": LABELS,
    "backend": "reference",
}
ATTRIBUTES = [
    (name, option)
    for name in BATCHES
    for option in getattr(mtlfast, name).defaults
    if option not in ("ref_embeddings", "ref_labels")  # they come together
]


def made(name, **options):
    return getattr(mtlfast, name)(**NEEDED.get(name, {}), **options)


def as_list(value):
    return torch.utils._pytree.tree_leaves(value)


def assert_equal(got, expected):
    for one, other in zip(as_list(got), as_list(expected), strict=True):
        assert torch.equal(one, other)


def test_the_tables_know_every_module():
    modules = (getattr(mtlfast, name) for name in mtlfast.__all__)
    assert {m.__name__ for m in modules if hasattr(m, "function")} == set(BATCHES)


@pytest.mark.parametrize("name, option", ATTRIBUTES)
def test_an_option_is_an_attribute_that_counts(name, option):
    """Its default can be read; what is assigned counts as if given, in repr, copies and pickles."""
    module, function = made(name), getattr(mtlfast, name).function
    default = inspect.signature(function).parameters[option].default
    optional = default is not inspect.Parameter.empty
    if optional:
        assert getattr(module, option) == default and f"{option}=" not in repr(module)
    more = {"distance": "cosine"} if option in ("scale", "bias") else {}
    value = OTHER.get(option, not default)
    value = "mean" if value == default == "sum" else value
    module = made(name, **more)
    setattr(module, option, value)
    expected = function(*BATCHES[name], **{**NEEDED.get(name, {}), **more, option: value})
    given = getattr(mtlfast, name)(**{**NEEDED.get(name, {}), **more, option: value})
    for one in (module, given, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_equal(one(*BATCHES[name]), expected)
        assert f"{option}=" in repr(one)
        assert set(one.state_dict()) == ({option} if isinstance(value, torch.Tensor) else set())
    if optional:
        setattr(module, option, default)
        assert f"{option}=" not in repr(module) and not module.state_dict()
        assert_equal(module(*BATCHES[name]), made(name, **more)(*BATCHES[name]))


def test_attributes_are_checked_at_the_next_call_and_unknown_ones_are_any_modules():
    loss = mtlfast.SmoothL1Loss()
    loss.beta, loss.note = -1, "mine"
    with pytest.raises(ValueError, match="beta must be at least 0; got -1"):
        loss(X, Y)
    assert loss.note == "mine" and "note" not in repr(loss)
    with pytest.raises(AttributeError, match="gamma"):
        _ = loss.gamma


@pytest.mark.parametrize("name", ["BCEWithLogitsLoss", "MSELoss", "L1Loss", "SmoothL1Loss"])
def test_attributes_of_torchs_modules_are_ours(name):
    for options in ({}, {"size_average": False}, {"reduce": False}, {"reduction": "sum"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first two are deprecated
            ours, theirs = getattr(mtlfast, name)(**options), getattr(nn, name)(**options)
        shared = {key for key in (*vars(theirs), *theirs._buffers) if not key.startswith("_")}
        assert {"training", "reduction"} <= shared
        assert all(getattr(ours, key) == getattr(theirs, key) for key in shared)


def test_an_option_may_become_a_tensor_a_parameter_and_a_number():
    loss = mtlfast.ContrastiveLoss(distance="cosine")
    for value, kind in ((2.0, None), (torch.tensor(2.0), "buffers"), (2.0, None)):
        loss.scale = value
        assert bool(list(loss.named_buffers())) is (kind == "buffers")
    loss.scale = nn.Parameter(torch.tensor(2.0))
    loss(A, B, LABELS).backward()
    assert loss.scale.grad is not None and not list(loss.named_buffers())
    loss.scale = None
    assert not list(loss.parameters()) and loss.double().scale is None


@pytest.mark.parametrize("name", [n for n in BATCHES if n != "HierarchicalTripletLoss"])
def test_fx_records_a_loss_as_one_call_as_torchs_own(name):
    """A module by itself, one inside a model, and the function, called through its package."""
    batch, module = BATCHES[name], made(name)
    width = batch[0].shape[1]
    if "task_weight" in module.defaults:
        module.task_weight = nn.Parameter(torch.rand(4))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.loss = nn.Linear(width, width), module

    class Two(Model):
        def forward(self, x, y):
            return self.loss(self.body(x), y)

    class Three(Model):
        def forward(self, x, y, z):
            return self.loss(self.body(x), y, z)

    class Function(nn.Module):
        def forward(self, x, y):
            return MF.mse_loss(x, y, reduction="sum")

    model = (Two if len(batch) == 2 else Three)()
    cases = [(module, batch), (model, batch), (Function(), (X, Y))]
    for root, given in cases:
        graph = torch.fx.symbolic_trace(root)
        called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
        function = MF.mse_loss if isinstance(root, Function) else type(module).function
        assert called == [function]
        assert torch.equal(graph(*given), root(*given))


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "contiguous": lambda t: t,
    "transposed": lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
    "permuted": lambda t: t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    "sliced": lambda t: t.repeat_interleave(2, 1)[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name", ["binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss"]
)
def test_none_keeps_the_memory_format_of_the_input_as_torch_does(name, layout):
    x, y = (LAYOUTS[layout](torch.rand(2, 3, 4, 5)) for _ in range(2))
    for dtype in (torch.float32, torch.bfloat16):
        given = x.to(dtype).requires_grad_()
        got = getattr(MF, name)(given, y.to(dtype), reduction="none")
        expected = getattr(F, name)(given, y.to(dtype), reduction="none")
        assert got.stride() == expected.stride()
        torch.testing.assert_close(got, expected, rtol=3e-2, atol=2e-2)
        (grad,) = torch.autograd.grad(got, given, y.to(dtype))
        (sought,) = torch.autograd.grad(expected, given, y.to(dtype))
        torch.testing.assert_close(grad, sought, rtol=3e-2, atol=2e-2)
    weighted = getattr(MF, name)(x, y, reduction="none", task_weight=torch.arange(5.0))
    assert weighted.stride() == got.stride() and weighted[..., 0].eq(0).all()


def broken(name, *given, **options):
    """Returns the error classes that both raise."""
    errors = []
    for functions in (F, MF):
        with pytest.raises(Exception) as raised:
            getattr(functions, name)(*given, **options)
        errors.append(raised.type)
    return errors


BCE = "binary_cross_entropy_with_logits"
BROKEN = {
    "another shape": lambda: broken(BCE, X, Y[:3]),
    "weight of another shape": lambda: broken(BCE, X, Y, weight=torch.ones(3)),
    "pos_weight of another shape": lambda: broken(BCE, X, Y, pos_weight=torch.ones(3)),
    "regression of another shape": lambda: broken("l1_loss", X, Y[:, :3]),
    "mse of another shape": lambda: broken("mse_loss", X, Y[:4]),
    "integers": lambda: broken("mse_loss", X.long(), Y.long()),
    "complex": lambda: broken("smooth_l1_loss", X * 1j, Y * 1j),
    "reduction": lambda: broken("mse_loss", X, Y, reduction="avg"),
    "beta": lambda: broken("smooth_l1_loss", X, Y, beta=-1.0),
    "target on another device": lambda: broken(BCE, X, Y.to("meta")),
    "no tensor": lambda: broken(BCE, X, "a"),
    "rows of another shape": lambda: broken("triplet_margin_loss", A, B[:3], C),
    "margin": lambda: broken("triplet_margin_loss", A, B, C, margin=-1.0),
    "swap": lambda: broken("triplet_margin_loss", A, B, C, swap="no"),
    "p": lambda: broken("triplet_margin_loss", A, B, C, p="a"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_same_bad_call_raises_torchs_class_of_error(name):
    theirs, ours = BROKEN[name]()
    known = (ValueError, TypeError, RuntimeError, NotImplementedError)
    wanted = next((kind for kind in known if issubclass(theirs, kind)), Exception)
    assert issubclass(ours, wanted), (theirs, ours)
    assert issubclass(ours, (ValueError, TypeError))
