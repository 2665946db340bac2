"""Every argument of every public function and module, with every wrong kind of value."""

import inspect
import warnings

import numpy
import pytest
import torch
from messages import message_of

import mtlfast
import mtlfast.functional as MF

FUNCTIONS = {name: getattr(MF, name) for name in MF.__all__ if name.islower()}
MODULES = {
    name: module
    for name in mtlfast.__all__
    if isinstance(module := getattr(mtlfast, name), type) and hasattr(module, "function")
}

A, B, C = torch.randn(3, 4, 5)
MATRIX, LABELS = torch.rand(4, 3), torch.tensor([0, 0, 1, 1])
GOOD = {
    **dict.fromkeys(("input", "inputs", "target", "targets"), MATRIX),
    **dict.fromkeys(("x1", "anchor", "embeddings", "ref_embeddings"), A),
    **dict.fromkeys(("x2", "positive"), B),
    **dict.fromkeys(("attributes_a", "attributes_n"), MATRIX),
    **dict.fromkeys(("losses", "weights"), MATRIX[0]),
    **dict.fromkeys(("labels", "ref_labels", "same"), LABELS),
    **dict.fromkeys(("base", "scale"), 0.5),
    "negative": C,
    "levels": [B, C],
    "margins": [0.5],
}
# What an argument needs beside it.
BESIDE = {
    "ref_embeddings": {"ref_labels": LABELS},
    "ref_labels": {"ref_embeddings": A},
    "scale": {"distance": "cosine"},
    "bias": {"distance": "cosine"},
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a prototype
    NESTED, JAGGED = (
        torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=layout)
        for layout in (torch.strided, torch.jagged)
    )
NO_TENSORS = {
    "a list": [[1.0] * 3] * 4,
    "an array": numpy.ones((4, 3)),
    "a word": "a",
    "a number": 3,
    "a flag": True,
    "a mapping": {},
}
TENSORS = {
    "complex": MATRIX * 1j,
    "sparse": MATRIX.to_sparse(),
    "elsewhere": MATRIX.to("meta"),
    "nested": NESTED,
    "jagged": JAGGED,
    "too many dimensions": torch.ones(1, 2, 4, 3, 1),
}
NO_NUMBERS = {
    "a word": "a",
    "a flag": True,
    "a list": [1.0],
    "complex": 1j,
    "a mapping": {},
    "NumPy's flag": numpy.bool_(True),
}
WRONG = {
    "Tensor": {**NO_TENSORS, **TENSORS, "nothing": None},
    "Tensor | None": {**NO_TENSORS, **TENSORS},
    "float": {**NO_NUMBERS, "nothing": None, "a tensor": torch.ones(()), "NaN": float("nan")},
    "float | None": {**NO_NUMBERS, "a tensor": torch.ones(())},
    "float | Tensor": {**NO_NUMBERS, **TENSORS, "nothing": None, "NaN": float("nan")},
    "Tensor | float | None": {**NO_NUMBERS, **TENSORS, "NaN": float("nan")},
    "bool": {
        "a word": "no",
        "1": 1,
        "0": 0.0,
        "nothing": None,
        "a list": [],
        "a tensor": MATRIX > 1,
    },
    "bool | None": {"a word": "no", "1": 1, "a list": [], "a tensor": MATRIX > 1},
    "str": {"a word": "x", "nothing": None, "a number": 1, "a list": ["auto"], "a tensor": MATRIX},
    "Sequence[Tensor]": {"nothing": None, "a number": 3, "a word": "ab", "words": ["a", "b"]},
    "Sequence[float]": {"nothing": None, "a number": 3, "a word": "a", "a flag": [True]},
}
WRONG['Literal["sum", "mean"] | None'] = WRONG["str"] | {"nothing": 0}


def good(function):
    """Returns arguments that the function takes, for those that it needs."""
    needed = inspect.signature(function).parameters.values()
    return {p.name: GOOD[p.name] for p in needed if p.default is p.empty}


CALLS = [
    (name, argument)
    for name, function in FUNCTIONS.items()
    for argument in inspect.signature(function).parameters
]
OPTIONS = [(name, option) for name, module in MODULES.items() for option in module.defaults]


def wrong(function, argument):
    """Returns the values that the argument must not have."""
    annotation = inspect.signature(function).parameters[argument].annotation
    return WRONG[annotation.replace("'", '"')]


def assert_refused(call, argument, wrong):
    """One line, which names the argument first, or what is not like it."""
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
        pytest.fail(f"{wrong} was taken")
    kind = TypeError if issubclass(raised.type, TypeError) else ValueError
    first = "" if wrong in ("elsewhere", "too many dimensions") else "^"
    message_of(call, kind, rf"{first}\b{argument}\b(\[\d\] )?")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_good_arguments_are_good(name):
    assert FUNCTIONS[name](**good(FUNCTIONS[name])).isfinite().all()


@pytest.mark.parametrize("name, argument", CALLS)
def test_a_wrong_kind_of_argument_is_refused_by_name(name, argument, no_work):
    function = FUNCTIONS[name]
    beside = BESIDE.get(argument, {}) if name != "attribute_margin" else {}
    for kind, value in wrong(function, argument).items():
        bad = {**good(function), **beside, argument: value}
        assert_refused(lambda bad=bad: function(**bad), argument, kind)


@pytest.mark.parametrize("name, option", OPTIONS)
def test_a_wrong_kind_of_option_is_refused_when_the_module_is_made(name, option, no_work):
    """Save tensors, which are checked in the call: they may fit its batch and device alone."""
    module = MODULES[name]
    needed = {"margins": [0.5]} if name == "HierarchicalTripletLoss" else {}
    for kind, value in wrong(module.function, option).items():
        if not isinstance(value, torch.Tensor):
            bad = {**needed, **BESIDE.get(option, {}), option: value}
            assert_refused(lambda bad=bad: module(**bad), option, kind)
