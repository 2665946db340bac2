"""Properties of the model: heads anywhere, and parts of it that do not learn."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from training import data, network, same, state, trainer

from mtlfast.train import MultiTaskModel


def layered():
    backbone = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    return MultiTaskModel(backbone, {"main": nn.Linear(2, 1), "early": ("0", nn.Linear(4, 1))})


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_head_can_sit_on_an_intermediate_layer_of_a_copy_too():
    model, x = layered(), torch.randn(6, 5)
    torch.testing.assert_close(model(x)["early"], model.heads["early"](model.backbone[0](x)))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        model.backbone[0].weight.zero_()
    torch.testing.assert_close(copied(x)["early"], copied.heads["early"](copied.backbone[0](x)))
    assert not torch.equal(copied(x)["early"], model(x)["early"])


def test_only_the_heads_that_are_asked_for_run():
    model = layered()
    model.heads["early"] = nn.Linear(99, 1)
    assert list(model(torch.randn(6, 5), ["main"])) == ["main"]


@pytest.mark.parametrize("head", [nn.Linear(2, 7), ("0", nn.Linear(4, 7)), ("1", nn.Linear(2, 7))])
@pytest.mark.parametrize("name", ["main", "early"])
def test_a_head_can_be_replaced_on_any_layer(name, head):
    model, x = layered(), torch.randn(6, 5)
    other = "early" if name == "main" else "main"
    before = model(x)[other]
    model.replace_head(name, head)
    for each in (model, copy.deepcopy(model)):
        outputs = each(x)
        assert list(outputs) == ["main", "early"] and outputs[name].shape == (6, 7)
        assert torch.equal(outputs[other], before)


def test_frozen_modules_do_not_change_by_one_bit_while_the_rest_learns():
    model = network(dropout=0.5)
    model.freeze("backbone")
    before = state(model)
    model.train()
    trainer(model).fit(data(), 2, 8, validation=data(9, seed=2))
    after = state(model)
    assert not model.backbone.training and model.training and model.heads.training
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("backbone")


@pytest.mark.parametrize("names", [["backbone.1"], ["heads.kind", "backbone.0"], ["heads"]])
def test_only_what_is_named_is_frozen_and_it_can_be_undone(names):
    model = network(dropout=0.5)
    every = learning(model)
    model(torch.randn(4, 5))["kind"].sum().backward()
    model.freeze(*names)
    frozen = {name for name in every if name.startswith(tuple(names))}
    for mode in (True, False, True):
        model.train(mode)
        assert learning(model) == every - frozen
        for name, module in model.named_modules():
            assert module.training == (mode and not name.startswith(tuple(names)))
    assert all(model.get_parameter(name).grad is None for name in frozen)
    model.unfreeze(*names)
    assert learning(model) == every and all(module.training for module in model.modules())


def test_freezing_leaves_the_mode_of_other_modules_alone():
    model = network()
    model.backbone[1].eval()
    model.freeze("heads.kind")
    model.unfreeze("heads.kind")
    assert not model.backbone[1].training and model.heads["kind"].training


def test_a_part_of_a_frozen_module_can_learn_and_a_new_head_does():
    model = network()
    model.freeze("backbone", "heads.kind")
    model.unfreeze("backbone.0")
    model.replace_head("kind", nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3)))
    model.train()
    assert learning(model) == {
        *(f"backbone.0.{part}" for part in ("weight", "bias")),
        *(name for name, _ in model.named_parameters() if name.startswith("heads")),
    }
    assert model.backbone[0].training and not model.backbone[1].training
    assert all(module.training for module in model.heads.modules())


def test_a_copy_of_a_frozen_model_is_frozen():
    model = network()
    model.freeze("backbone")
    copied = copy.deepcopy(model).train()
    assert not copied.backbone.training and learning(copied) == learning(model)


RATES = [
    (0.1, {"model": 0.1}),
    ({"backbone": 1e-4, "heads": 1e-3}, {"backbone": 1e-4, "heads": 1e-3}),
    ({"": 0.1, "backbone.0": 0.2}, {"model": 0.1, "backbone.0": 0.2}),
    (
        {"backbone": 0.1, "backbone.1": 0.2, "heads.flags": 0.3, "heads.kind": 0.0},
        {"backbone": 0.1, "backbone.1": 0.2, "heads.kind": 0.0},
    ),
]


@pytest.mark.parametrize("rates, wanted", RATES)
def test_groups_hold_each_learning_parameter_once_at_the_rate_of_its_longest_name(rates, wanted):
    model = network()
    model.freeze("heads.flags")
    groups = model.parameter_groups(rates)
    assert {group["name"]: group["lr"] for group in groups} == wanted
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len(learning(model))
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    names = sorted((name for name in rates), key=len) if isinstance(rates, dict) else [""]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            place = [each for each in names if f"{name}.".startswith(f"{each}." if each else "")][
                -1
            ]
            group = next(group for group in groups if group["name"] == (place or "model"))
            assert any(parameter is other for other in group["params"])


def test_groups_leave_out_what_is_frozen_and_feed_an_optimizer():
    model = network()
    model.freeze("backbone")
    before = state(model.backbone)
    groups = model.parameter_groups({"backbone": 1e-4, "heads": 1e-3})
    assert [group["name"] for group in groups] == ["heads"]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    model(torch.randn(4, 5))["kind"].sum().backward()
    optimizer.step()
    assert same(before, state(model.backbone)) and optimizer.param_groups[0]["lr"] == 1e-3


BAD = [
    (lambda: MultiTaskModel(nn.Identity(), {}), "at least one head"),
    (lambda: MultiTaskModel(nn.Identity(), {"h": ("conv9", nn.Identity())}), "no layer 'conv9'"),
    (lambda: network().replace_head("king", nn.Identity()), r"no head 'king'; it has \['kind', "),
    (lambda: network().replace_head("kind", ("9", nn.Identity())), "no layer '9'; it has"),
    (lambda: network().freeze("body"), r"no submodule 'body'; it has \['backbone', 'heads'\]"),
    (lambda: network().unfreeze("backbone.9.1"), r"no submodule .*; it has \['backbone.0', "),
    (lambda: network().freeze("heads.kind.weight"), "'heads.kind' has no submodule"),
    (lambda: network().parameter_groups({"": 1.0, "head": 1.0}), "no submodule 'head'"),
    (lambda: network().parameter_groups({"heads": 1.0}), "none is above 'backbone.0.weight'"),
    (lambda: network().parameter_groups(-1.0), "lr must be finite and not negative; got -1"),
    (lambda: network().parameter_groups({"": math.nan}), "lr must be finite"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_head_is_replaced_by_attribute_too():
    model = MultiTaskModel(nn.Linear(2, 2), {"a": nn.Linear(2, 1)})
    model.heads.a = nn.Linear(2, 3)
    assert model(torch.zeros(4, 2))["a"].shape == (4, 3)


def test_a_buffer_of_minus_infinity_is_no_fault_and_one_of_nan_is(tmp_path):
    model = network()
    model.backbone.register_buffer("causal", torch.full((2, 2), -math.inf).triu(1))
    trainer(model, output=tmp_path / "a").fit(data(), 1, 8)
    model.backbone.causal.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"causal is no longer finite"):
        trainer(model, output=tmp_path / "b").fit(data(), 1, 8)
