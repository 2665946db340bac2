"""csrc and kernels/ spell a loss alike: its parameters, its constants, and its steps in order."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from mtlfast.ops.catalogue import KERNELS, LOSSES

ROOT = Path(__file__).resolve().parents[1]
POINTWISE_H = (ROOT / "csrc/pointwise.h").read_text()
SIDES_H = (ROOT / "csrc/sides.h").read_text()
SOURCES = [(ROOT / f"kernels/{name}.py").read_text() for name in ("losses", "sided_losses")]
MIRROR = ast.parse("\n".join(SOURCES))
TRITON = {node.name: node for node in MIRROR.body if isinstance(node, ast.FunctionDef)}

# Paths of csrc/pointwise.h that Triton has not, and why.
PATHS = {
    "kWhole": "whole exponents by squares: pow_unit's POWERS there",
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
# The same where labels are on their own side: csrc/sides.h and kernels/sided_losses.py.
ONLY_NATIVE_SIDED = {
    "s": "a member of OwnSide; a parameter in Triton",
}
ONLY_TRITON_SIDED = {
    "power": "a parameter in csrc, whose caller finds it for all losses alike",
}
# Functions of csrc/sides.h that Triton has not, and why.
NOT_SIDED = {
    ("binary_cross_entropy_with_logits", "OwnSide"): "holds s alone",
    ("binary_cross_entropy_with_logits", "grad"): (
        "compiled for sm_90, the general one has 23.5 instructions an element, this one 24.4"
    ),
}
# What tells csrc's callers of powers, which are in Triton's functions.
CALLERS = {"covers", "value_exponents", "grad_exponents"}
# Functions that one functor of csrc has beside value and grad: its mirror, or why there is none.
HELPERS = {
    "balance": "balance",
    "parts": "asymmetric_parts",
    "focus": None,  # kWhole's choice: pow_unit makes it in Triton
    "whole": None,  # kWhole
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


def named(loss):
    """Returns where a loss's functor is, with its name."""
    return re.search(
        rf'struct (\w+)[^{{]*{{\s+static constexpr const char\* kName = "{loss}"', POINTWISE_H
    )


def functor(loss):
    """Returns the body of a loss's functor, without comments."""
    return re.sub(r"//.*", "", block(POINTWISE_H, named(loss).start())[0])


def side(loss):
    """Returns the same of its OwnSide, or None where it has none."""
    found = re.search(rf"struct OwnSide<{named(loss)[1]}>", SIDES_H)
    return found and re.sub(r"//.*", "", block(SIDES_H, found.start())[0])


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


def parts(text):
    """Yields what commas part, but for those in parentheses or braces."""
    depth, part = 0, ""
    for char in text + ",":
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            yield part
            part = ""
        else:
            part += char


def declared(statement):
    """Yields the names that a C++ statement declares, and whether by a call of a helper."""
    found = re.match(r"\s*const (?:F|float|bool|auto|Logistic<F>) (.*)", statement, re.S)
    for part in parts(found[1]) if found else ():
        name, rest = re.match(r"\s*(\w+)(.*)", part, re.S).groups()
        called = re.match(r" = (\w+)\(", rest)
        yield name, called and called[1] in HELPERS


def native_steps(loss, function):
    text = functor(loss)
    found = re.search(rf"static \w+(?:<F>)? {function}\(", text)
    body, _ = block(text, found.end())
    steps = []
    for statement in shared_path(body).split(";"):
        for name, helped in declared(statement):
            steps += [] if helped else PAIRS.get(name, (name,))
    return steps


def side_steps(loss, function):
    """Returns the steps of a function of a OwnSide; those of its constructor set members, too."""
    text = side(loss)
    at = re.search(rf"MTLFAST_INLINE (?:static )?(?:float )?{function}\(", text).start()
    members = text[at : text.index("{", at)].partition(" : ")[2]
    steps = [re.match(r"\s*(\w+)\(", part)[1] for part in parts(members)] if members else []
    for statement in block(text, at)[0].split(";"):
        assigned = re.match(r"\s*(\w+) = ", statement)
        steps += [assigned[1]] if assigned else [name for name, _ in declared(statement)]
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


SIDED = [
    (loss, function, f"{loss}_{mirror}")
    for loss in KERNELS["pointwise"]
    for function, mirror in (
        ("OwnSide", "side"),
        ("balance", "balance"),
        ("value", "sided_value"),
        ("grad", "sided_grad"),
    )
    if f"{loss}_{mirror}" in TRITON
]


def only(names, others):
    return [name for name in names if name not in others]


@pytest.mark.parametrize("loss, native, triton", FUNCTIONS, ids=lambda name: name)
def test_steps_are_the_same_in_the_same_order(loss, native, triton):
    ours, theirs = native_steps(loss, native), triton_steps(triton)
    assert only(ours, ONLY_NATIVE) == only(theirs, ONLY_TRITON)


@pytest.mark.parametrize("loss, native, triton", SIDED, ids=lambda name: name)
def test_steps_are_the_same_where_labels_are_on_their_own_side(loss, native, triton):
    ours, theirs = side_steps(loss, native), triton_steps(triton)
    assert only(ours, ONLY_NATIVE_SIDED) == only(theirs, ONLY_TRITON_SIDED)


def test_every_function_of_a_side_has_its_mirror():
    found = set()
    for loss in filter(side, KERNELS["pointwise"]):
        names = re.findall(r"MTLFAST_INLINE (?:static )?(?:[\w<>]+ )?(\w+)\(", side(loss))
        found |= {(loss, name) for name in names if name not in CALLERS}
    assert found - {(loss, native) for loss, native, _ in SIDED} == set(NOT_SIDED)
    mirrored = {triton for _, _, triton in (*FUNCTIONS, *SIDED)}
    assert set(TRITON) - mirrored == set(re.findall(r"^MTLFAST_INLINE F (\w+)\(", SIDES_H, re.M))


def test_the_same_losses_have_sides_up_to_the_same_parameters():
    losses = pytest.importorskip("mtlfast.kernels.losses")
    whole = int(re.search(r"kMaxWhole = (\d+)", (ROOT / "csrc/powers.h").read_text())[1])
    most = re.search(r"kMostOfSides = (\d+)", SIDES_H)[1]
    for loss, mirror in losses.POINTWISE.items():
        text = side(loss)
        for name, function in zip(("value", "grad"), mirror.sided, strict=True):
            mirrored = text is not None and (loss, name) not in NOT_SIDED
            assert function is (getattr(losses, f"{loss}_sided_{name}") if mirrored else None)
        if text is None:
            continue
        body = block(text, text.index("bool covers("))[0].replace("kMostOfSides", most)
        limits = {name: float(most) for name, most in re.findall(r"k\.(\w+) <= ([\d.]+)", body)}
        if "::whole(k, true)" in body:
            text = functor(loss)
            body += block(text, text.index("bool whole("))[0]
        assert set(re.findall(r"is_small_whole\(k\.(\w+)\)", body)) == set(mirror.exponents)
        ours = dict(mirror.limits) | dict.fromkeys(mirror.exponents, mirror.most)
        assert dict.fromkeys(mirror.exponents, whole) | limits == ours
        largest = [ours.get(name, 0.0) for name in mirror.parameters]
        assert mirror.covers(largest)
        for i, name in enumerate(mirror.parameters):
            beyond = [*largest[:i], largest[i] + 1, *largest[i + 1 :]]
            assert mirror.covers(beyond) == (name not in ours)


def test_what_one_side_alone_has_is_there_and_only_there():
    for table, steps, native_only, triton_only in (
        (FUNCTIONS, native_steps, ONLY_NATIVE, ONLY_TRITON),
        (SIDED, side_steps, ONLY_NATIVE_SIDED, ONLY_TRITON_SIDED),
    ):
        ours = {step for loss, native, _ in table for step in steps(loss, native)}
        theirs = {step for _, _, triton in table for step in triton_steps(triton)}
        assert set(native_only) == ours - theirs and set(triton_only) == theirs - ours
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
        assert {*mirror.exponents, *dict(mirror.limits)} <= {*record.parameters}
        assert mirror.classification == record.classification
        assert mirror.weighted_mean == record.weighted_mean
    assert list(row_losses.ROWS) == list(KERNELS["rows"])
    for name, settings in row_losses.ROWS.items():
        assert list(inspect.signature(settings).parameters) == list(LOSSES[name].parameters)
    assert list(inbatch.LOSSES) == list(KERNELS["inbatch"])
    for name, parameters in inbatch.LOSSES.items():
        assert parameters._fields == tuple(LOSSES[name].parameters)
