"""csrc and kernels/ spell a loss alike: its parameters, its constants, and its steps in order."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from mtlfast.ops.catalogue import KERNELS, LOSSES

ROOT = Path(__file__).resolve().parents[1]
POINTWISE_H = (ROOT / "csrc/pointwise.h").read_text()
MIRROR = ast.parse((ROOT / "kernels/losses.py").read_text())
TRITON = {node.name: node for node in MIRROR.body if isinstance(node, ast.FunctionDef)}

# Paths of csrc/pointwise.h that Triton has not, and why.
PATHS = {
    "kHard": "labels of 0 and 1 on their own side: Triton loads no labels of one byte apart",
    "kWhole": "whole exponents by squares: pow_unit's POWER there",
}
# Steps that one side alone has, and why.
ONLY_NATIVE = {
    "logistic": "holds one exponential for sigmoid and softplus; functions share it in Triton",
}
ONLY_TRITON = {
    "exp_abs": "that exponential, where it isn't the usual one",
    "x": "bounded before, as a Logistic takes it in csrc",
    "floored": "tl.where computes both of its sides, which a branch of csrc does not",
    "log_slope_neg": "likewise",
    "valley": "likewise",
    "far": "likewise",
    "sign": "likewise",
}
# Functions that one functor of csrc has beside value and grad: its mirror, or why there is none.
HELPERS = {
    "balance": "balance",
    "parts": "asymmetric_parts",
    "focus": None,  # kWhole's choice: pow_unit makes it in Triton
    "side": None,  # kHard
    "log": None,  # kHard
    "whole": None,  # kWhole
    "sided": None,  # kHard
}
PAIRS = {
    "sigmoid": ("sigmoid_plus", "sigmoid_minus"),
    "softplus": ("softplus_plus", "softplus_minus"),
}


def block(text, at):
    """Returns what stands between the first brace from `at` on and its match, and the end."""
    start = text.index("{", at)
    depth = 0
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + 1 : end], end + 1
    raise ValueError("no brace closes it")


def functor(loss):
    """Returns the body of a loss's functor, without comments."""
    name = re.search(
        rf'struct (\w+)[^{{]*{{\s+static constexpr const char\* kName = "{loss}"', POINTWISE_H
    )
    return re.sub(r"//.*", "", block(POINTWISE_H, name.start())[0])


def shared_path(body):
    """Returns a function's body without the paths that csrc alone has."""
    while found := re.search(r"if constexpr \(K::(\w+)\)", body):
        assert found[1] in PATHS, found[1]
        rest = body[found.end() :].lstrip()
        if rest[0] != "{":
            body = body[: found.start()] + rest[rest.index(";") + 1 :]
            continue
        _, end = block(rest, 0)
        rest = rest[end:]
        other = re.match(r"\s*else\s*(?={)", rest)
        if other:
            inside, end = block(rest, other.end())
            rest = inside + rest[end:]
        body = body[: found.start()] + rest
    return body


def declared(statement):
    """Yields the names that a C++ statement declares, and whether by a call of a helper."""
    found = re.match(r"\s*const (?:F|bool|auto|Logistic<F>) (.*)", statement, re.S)
    if not found:
        return
    depth, text = 0, ""
    for char in found[1] + ",":
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            name, rest = re.match(r"\s*(\w+)(.*)", text, re.S).groups()
            called = re.match(r" = (\w+)\(", rest)
            yield name, called and called[1] in HELPERS
            text = ""
        else:
            text += char


def native_steps(loss, function):
    text = functor(loss)
    found = re.search(rf"static \w+(?:<F>)? {function}\(", text)
    body, _ = block(text, found.end())
    steps = []
    for statement in shared_path(body).split(";"):
        for name, helped in declared(statement):
            steps += [] if helped else PAIRS.get(name, (name,))
    return steps


def triton_steps(function):
    steps = []
    for node in TRITON[function].body:
        if not isinstance(node, ast.Assign):
            assert isinstance(node, ast.Return), ast.unparse(node)
            continue
        called = node.value.func if isinstance(node.value, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in TRITON:
            continue  # the steps are that function's
        for target in node.targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            steps += [name.id for name in names]
    return steps


FUNCTIONS = [(loss, f, f"{loss}_{f}") for loss in KERNELS["pointwise"] for f in ("value", "grad")]
FUNCTIONS += [
    ("sigmoid_focal_loss", "balance", "balance"),
    ("asymmetric_loss", "parts", "asymmetric_parts"),
]


@pytest.mark.parametrize("loss, native, triton", FUNCTIONS, ids=lambda name: name)
def test_steps_are_the_same_in_the_same_order(loss, native, triton):
    ours, theirs = native_steps(loss, native), triton_steps(triton)
    assert [s for s in ours if s not in ONLY_NATIVE] == [s for s in theirs if s not in ONLY_TRITON]


def test_what_one_side_alone_has_is_there_and_only_there():
    ours = {step for loss, native, _ in FUNCTIONS for step in native_steps(loss, native)}
    theirs = {step for _, _, triton in FUNCTIONS for step in triton_steps(triton)}
    assert set(ONLY_NATIVE) == ours - theirs and set(ONLY_TRITON) == theirs - ours
    paths = re.findall(r"if constexpr \(K::(\w+)\)", POINTWISE_H)
    assert set(paths) == set(PATHS)


def test_every_helper_of_a_functor_has_its_mirror():
    found = set()
    for loss in KERNELS["pointwise"]:
        found |= set(re.findall(r"MTLFAST_INLINE (?:static )?\w+(?:<F>)? (\w+)\(", functor(loss)))
        found |= set(re.findall(r"static constexpr bool (\w+)\(", functor(loss)))
    assert found - {"value", "grad"} == set(HELPERS)
    assert {mirror for mirror in HELPERS.values() if mirror} <= set(TRITON)


@pytest.mark.parametrize("loss", KERNELS["pointwise"])
def test_constants_and_parameters_of_a_functor_are_the_records(loss):
    record, text = LOSSES[loss], functor(loss)
    names = re.search(r"MTLFAST_PARAMETERS\((.*?)\)", text)
    assert (names[1].split(", ") if names else []) == list(record.parameters)
    told = dict(re.findall(r"(k\w+) = (true|false)", text))
    assert told["kClassification"] == str(record.classification).lower()
    assert told["kWeightedMean"] == str(record.weighted_mean).lower()


@pytest.mark.parametrize("family", ["rows", "inbatch"])
def test_parameters_of_other_families_in_csrc_are_the_records(family):
    text = (ROOT / f"csrc/{family}.h").read_text()
    found = re.findall(r"struct (\w+) \{\s+MTLFAST_PARAMETERS\((.*?)\);", text)
    assert [name for name, _ in found] == list(KERNELS[family])
    for name, parameters in found:
        assert parameters.split(", ") == list(LOSSES[name].parameters)


def test_constants_and_parameters_in_triton_are_the_records():
    pytest.importorskip("triton")
    from mtlfast.kernels import inbatch, losses, row_losses

    assert list(losses.POINTWISE) == list(KERNELS["pointwise"])
    for name, mirror in losses.POINTWISE.items():
        record = LOSSES[name]
        for function in (mirror, mirror._replace(value=mirror.grad)):
            assert function.parameters == tuple(record.parameters)
        assert mirror.exponent in {None, *record.parameters}
        assert mirror.classification == record.classification
        assert mirror.weighted_mean == record.weighted_mean
    assert list(row_losses.ROWS) == list(KERNELS["rows"])
    for name, settings in row_losses.ROWS.items():
        assert list(inspect.signature(settings).parameters) == list(LOSSES[name].parameters)
    assert list(inbatch.LOSSES) == list(KERNELS["inbatch"])
    for name, parameters in inbatch.LOSSES.items():
        assert parameters._fields == tuple(LOSSES[name].parameters)
