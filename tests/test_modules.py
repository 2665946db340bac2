"""The loss modules and the small pieces beside the kernels: options, tensors, builds."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn

import mtlfast
import mtlfast.functional as MF
from mtlfast.ops import native

LOGITS = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
TARGET = torch.tensor([[1, -1], [0, 1]])
WEIGHT = torch.tensor([2.0, 3.0])


def test_one_tensor_may_serve_as_two_options() -> None:
    loss = mtlfast.BCEWithLogitsLoss(pos_weight=WEIGHT, task_weight=WEIGHT)
    expected = MF.binary_cross_entropy_with_logits(
        LOGITS, TARGET, pos_weight=WEIGHT, task_weight=WEIGHT
    )
    assert torch.equal(loss(LOGITS, TARGET), expected)


def test_a_parameter_stays_a_parameter_and_learns() -> None:
    loss = mtlfast.MSELoss(task_weight=nn.Parameter(WEIGHT.clone())).double()
    copy.deepcopy(loss)(LOGITS.double(), TARGET.double()).backward()
    loss(LOGITS.double(), TARGET.double()).backward()
    assert [name for name, _ in loss.named_parameters()] == ["task_weight"]
    assert loss.task_weight.grad is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mtlfast.MSELoss(reduction="avg"), "reduction must be one of"),
        (lambda: mtlfast.SmoothL1Loss(weight=WEIGHT), "takes no option 'weight'"),
    ],
)
def test_a_wrong_option_is_refused_when_the_module_is_made(make, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array])
def test_margins_may_come_in_any_sequence(kind) -> None:
    a, b, c = torch.randn(3, 4, 5)
    expected = MF.hierarchical_triplet_loss(a, [b, c, a], [0.6, 0.2])
    loss = mtlfast.HierarchicalTripletLoss(kind([0.6, 0.2]))
    assert torch.equal(loss(a, [b, c, a]), expected)
    assert torch.equal(loss(a, [b, c, a]), expected)
    loss.margins = torch.tensor([0.6, 0.2])
    with pytest.raises(TypeError, match=r"margins must be a sequence .* call .tolist\(\) first"):
        loss(a, [b, c, a])


def signatures():
    modules = (getattr(mtlfast, name) for name in mtlfast.__all__)
    return [module for module in modules if hasattr(module, "function")]


@pytest.mark.parametrize("module", signatures(), ids=lambda module: module.__name__)
def test_forward_shows_what_it_takes(module) -> None:
    """The tensors of the function, its options by keyword, what it returns; and they are taken."""
    shown = inspect.signature(module.forward).parameters
    function = inspect.signature(module.function)
    own = inspect.signature(module).parameters
    empty = inspect.Parameter.empty
    tensors = [
        name for name, p in function.parameters.items() if p.default is empty and name not in own
    ]
    options = [name for name in function.parameters if name in module.defaults]
    assert list(shown) == ["self", *tensors, *options]
    assert all(shown[name].kind is inspect.Parameter.KEYWORD_ONLY for name in options)
    assert inspect.signature(module.forward).return_annotation == function.return_annotation
    assert module.forward.__doc__


class Halved(mtlfast.MSELoss):
    """A user's own loss, which is no function of the package and has no backend."""

    def halved_mse(input, target, reduction="mean", scale=0.5, **options):
        return scale * MF.mse_loss(input, target, reduction=reduction, **options)

    function = halved_mse


def shadowing(input, target, reduction="mean", backend="auto"):
    return -MF.mse_loss(input, target, reduction=reduction, backend=backend)


shadowing.__name__ = "mse_loss"


def test_a_module_of_a_users_own_function_calls_that_function() -> None:
    expected = 0.5 * MF.mse_loss(LOGITS, TARGET)
    loss = Halved()
    assert torch.equal(loss(LOGITS, TARGET), expected)
    loss.scale = 2.0
    assert torch.equal(loss(LOGITS, TARGET), 4 * expected)
    assert torch.equal(loss(LOGITS, TARGET, scale=1.0), 2 * expected)

    class Shadowing(mtlfast.MSELoss):
        function = shadowing

    assert torch.equal(Shadowing()(LOGITS, TARGET), -2 * expected)


def test_a_module_hands_over_only_what_is_not_the_default(monkeypatch) -> None:
    given = []
    monkeypatch.setattr(MF, "smooth_l1_loss", lambda *tensors, **options: given.append(options))
    loss = mtlfast.SmoothL1Loss(reduction="mean", task_weight=WEIGHT)
    loss(LOGITS, TARGET)
    loss.beta, loss.task_weight = 0.5, None
    loss(LOGITS, TARGET, mask=None)
    loss.beta = 1.0
    copy.deepcopy(loss)(LOGITS, TARGET)
    assert given == [{"task_weight": WEIGHT}, {"beta": 0.5, "mask": None}, {}]


def test_modules_read_like_torch_s() -> None:
    loss = mtlfast.AsymmetricLoss(2.0, 1.0, 0.1, 1e-6)
    assert loss.reduction == "sum"
    assert repr(loss) == ("AsymmetricLoss(gamma_neg=2.0, clip=0.1, eps=1e-06)")


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_task_weight_alone_gets_no_gradient_through_the_task_losses(reduction: str) -> None:
    weight = WEIGHT.clone().requires_grad_()
    _, tasks = MF.binary_cross_entropy_with_logits(
        LOGITS, TARGET, task_weight=weight, reduction=reduction, return_tasks=True
    )
    (gradient,) = torch.autograd.grad(
        tasks.loss.sum(), weight, create_graph=True, allow_unused=True
    )
    assert gradient is None or not gradient.any()


def test_weighted_sum_teaches_weights_of_zero_and_survives_infinite_losses() -> None:
    weights = torch.zeros(2, requires_grad=True)
    MF.weighted_sum(torch.tensor([1.0, 2.0]), weights).backward()
    assert weights.grad is not None and weights.grad.tolist() == [1.0, 2.0]
    infinite = torch.tensor([torch.inf, 2.0])
    assert MF.weighted_sum(infinite, torch.tensor([0.0, 0.5])).item() == 1.0


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("8.0;9.0+PTX", (7, 5), False),
        ("8.0;9.0+PTX", (8, 6), True),
        ("8.0;9.0+PTX", (9, 0), True),
        ("8.0;9.0+PTX", (12, 0), True),
        ("8.0;9.0", (10, 0), False),
        ("native", (7, 5), True),
    ],
)
def test_a_build_runs_on_the_gpus_it_was_made_for(
    architectures: str, capability: tuple[int, int], runs: bool
) -> None:
    assert native.built_for(architectures, capability) is runs


def test_half_precision_runs_where_autocast_is_unknown() -> None:
    logits = LOGITS.bfloat16().to("meta")
    assert MF.binary_cross_entropy_with_logits(logits, TARGET.to("meta")).dtype == torch.bfloat16
