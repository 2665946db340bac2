"""The README's table of changed lines: each pair gives the same loss and the same gradients."""

import importlib
import inspect
import re
import warnings
from pathlib import Path

import published
import pytest
import torch
import torch.nn.functional as F

import mtlfast
import mtlfast.functional as MF

pytestmark = pytest.mark.usefixtures("one_thread")
README = Path(__file__).resolve().parents[1] / "README.md"
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}
# Not installed for the tests; `published` has their formulas, and where they are installed, they
# are compared as well. The authors' ASL is no package.
OPTIONAL = (
    "torchvision.ops",
    "kornia.losses",
    "timm.loss",
    "sentence_transformers.losses",
    "Alibaba-MIIL/ASL",
)


def changed_lines():
    """Returns the rows of the table: (library, what one has, what one writes)."""
    text = README.read_text().partition("| from | you have | you write |\n")[2].partition("\n\n")[0]
    rows, library = [], ""
    for line in text.splitlines()[1:]:
        named, have, write = (cell.strip().strip("`") for cell in line.strip("|").split(" | "))
        library = named.partition(" ")[0] or library
        rows.append((library, have, write))
    return rows


ROWS = changed_lines()
PAIRS = [(row, "published") for row in ROWS if row[0] in OPTIONAL]
PAIRS += [(row, "installed") for row in ROWS if row[0] != "Alibaba-MIIL/ASL"]


def tensors(dtype):
    """Returns the names that the table's lines use."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    leaves = {"x": 3 * random(24, 6), "e": 2 * random(24, 16), "r": 2 * random(10, 16)}
    leaves |= {name: random(24, 16) for name in ("a", "p", "n")}
    others = {
        "y": (y := (random(24, 6) > 0).to(dtype)),
        "m": (m := random(24, 6) > -0.5),
        "z": torch.where(m, y, -1),
        "w": random(6).exp(),
        "labels": torch.arange(24) % 6,
        "s": torch.arange(10) % 6,
        "model": lambda batch: {"sentence_embedding": batch},
    }
    return {name: leaf.requires_grad_() for name, leaf in leaves.items()}, others


def names_of(library, source):
    """Returns the names a line may take from a library, or from its formulas."""
    if source == "published":
        return vars(published)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(library)
            names = vars(module).copy()
            if library == "pytorch_metric_learning.losses":
                names |= vars(importlib.import_module("pytorch_metric_learning.miners"))
    except (ImportError, RuntimeError) as error:  # a torchvision made for another torch
        pytest.skip(f"{library}: {error}")
    asymmetric = names.get("AsymmetricLossMultiLabel")
    if asymmetric and "reduction" not in inspect.signature(asymmetric).parameters:
        pytest.skip("this timm sums")
    return names


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row, source", PAIRS, ids=lambda v: v if isinstance(v, str) else v[1])
def test_changed_line_gives_the_same_numbers(row, source, dtype):
    library, have, write = row
    leaves, others = tensors(dtype)
    names = {**names_of(library, source), "F": F, **leaves, **others}
    expected = eval(have, names)
    got = eval(write, {"MF": MF, "mtlfast": mtlfast, **leaves, **others})
    tolerance = TOLERANCE[expected.dtype]
    if expected.dtype == dtype:  # timm computes in float32, whatever comes
        assert got.dtype == dtype
    assert got.shape == expected.shape and expected.isfinite().all() and expected.any()
    torch.testing.assert_close(got, expected.to(dtype), rtol=tolerance, atol=tolerance)
    upstream = torch.linspace(0.5, 1.5, got.numel(), dtype=dtype).reshape(got.shape)
    used = [leaf for name, leaf in leaves.items() if re.search(rf"\b{name}\b", write)]
    ours = torch.autograd.grad(got, used, upstream)
    theirs = torch.autograd.grad(expected, used, upstream.to(expected.dtype))
    for one, other in zip(ours, theirs, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_table_knows_every_library():
    libraries = {library for library, _, _ in ROWS}
    assert libraries == {*OPTIONAL, "torch.nn.functional", "pytorch_metric_learning.losses"}
