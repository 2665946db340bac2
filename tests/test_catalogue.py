"""What is known of a loss stands in its record; signatures, modules and kernels agree with it."""

import inspect

import pytest
import torch
from messages import message_of

import mtlfast
import mtlfast.functional as MF
from mtlfast.ops import catalogue
from mtlfast.ops.catalogue import FAMILIES, KERNELS, LOSSES

PUBLIC = [name for name in MF.__all__ if name.endswith("_loss") or "entropy" in name]
X, LABELS = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
GIVEN = {
    "pointwise": {"input": X, "inputs": X, "target": X.sigmoid(), "targets": X.sigmoid()},
    "rows": {"anchor": X, "positive": X + 1, "negative": -X, "x1": X, "x2": -X, "same": LABELS},
    "inbatch": {"embeddings": X, "labels": LABELS},
}
GIVEN["rows"] |= {"levels": [X + 1, X + 2], "margins": [0.5]}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def parameters(loss):
    return inspect.signature(getattr(MF, loss.name)).parameters


def call(loss, **options):
    given = {name: v for name, v in GIVEN[loss.family].items() if name in parameters(loss)}
    return getattr(MF, loss.name)(**given, **options)


def test_every_public_loss_has_a_record_and_a_module():
    assert sorted(PUBLIC) == sorted(LOSSES)
    modules = [getattr(mtlfast, name) for name in mtlfast.__all__]
    twins = [module.function for module in modules if hasattr(module, "function")]
    assert {function.__name__: function for function in twins} == {
        name: getattr(MF, name) for name in LOSSES
    }


@each_loss
def test_signatures_have_the_defaults_of_the_records(loss):
    own = parameters(loss)
    told = {name: own[name].default for name in loss.parameters if name != "gaps"}
    assert told == {name: v for name, v in loss.parameters.items() if name != "gaps"}
    assert ("label_smoothing" in own) == loss.classification


@each_loss
def test_parameters_come_back_as_they_were_packed(loss):
    for values in (loss.parameters, {**loss.parameters, **_others(loss)}):
        packed = loss.pack(values)
        assert all(type(number) is float for number in packed)
        assert loss.unpack(packed) == {
            **values,
            **{n: [*v] for n, v in values.items() if n == "gaps"},
        }


def _others(loss):
    """Returns a value beside the default for each parameter."""
    found = {}
    for name, default in loss.parameters.items():
        if name in catalogue.CHOICES:
            found[name] = next(c for c in catalogue.CHOICES[name] if c != default)
        elif name == "gaps":
            found[name] = [0.25, 0.5, 1.0]
        else:
            found[name] = not default if isinstance(default, bool) else default + 0.5
    return found


@each_loss
def test_a_loss_takes_the_reductions_of_its_family_and_no_others(loss):
    for reduction in catalogue.REDUCTIONS:
        if reduction in FAMILIES[loss.family]:
            value = call(loss, reduction=reduction)
            assert value.isfinite().all() and (value.dim() > 0) == (reduction == "none")
        else:
            wanted = f"reduction must be one of {', '.join(loss.reductions)}; got '{reduction}'"
            message_of(lambda r=reduction: call(loss, reduction=r), ValueError, wanted)


@each_loss
def test_negative_labels_are_missing_where_labels_are_classes(loss):
    if loss.family != "pointwise":
        assert not loss.classification and not loss.weighted_mean
        return
    target = torch.full_like(X, -1.0)
    _, tasks = getattr(MF, loss.name)(X, target, return_tasks=True)
    assert tasks.count.sum() == (0 if loss.classification else X.numel())


@each_loss
def test_a_weight_is_in_the_mean_where_the_record_says_so(loss):
    if "weight" not in parameters(loss):
        assert not loss.weighted_mean
        return
    once, twice = (call(loss, weight=torch.tensor(w), reduction="mean") for w in (1.0, 2.0))
    torch.testing.assert_close(twice, once if loss.weighted_mean else 2 * once)


def test_numbers_follow_the_order_of_the_kernels():
    for family, names in KERNELS.items():
        assert [LOSSES[name].number for name in names] == list(range(len(names)))
        assert [catalogue.numbered(family, number).name for number in range(len(names))] == [*names]
    assert {loss.name: loss.runs for loss in LOSSES.values() if loss.runs} == {
        "normalized_triplet_loss": "hierarchical_triplet_loss"
    }
