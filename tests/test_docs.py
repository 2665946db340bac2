"""What help() and the manual tell: each part of a docstring, examples that run, pages offline."""

import doctest
import importlib
import inspect
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import mtlfast
import mtlfast.functional as MF

pytest.importorskip("accelerate")
WINGS = ("functional", "weighting", "distributed", "train", "recipes")
PACKAGES = [mtlfast, *(importlib.import_module(f"mtlfast.{wing}") for wing in WINGS)]
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in PACKAGES
    for name in package.__all__
    if inspect.isroutine(getattr(package, name)) or inspect.isclass(getattr(package, name))
}
FUNCTIONS = [name for name in MF.__all__ if name.islower()]
ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "mtlfast").rglob("*.py"))
# What a recipe's build returns; it takes a trainer and five data sets to make one by hand.
WITHOUT_EXAMPLE = {"mtlfast.recipes.Experiment"}
SECTIONS = {"arguments", "attributes", "example", "raises", "returns"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_tells_formula_shapes_errors_source_and_example(name):
    function = getattr(MF, name)
    text = inspect.getdoc(function)
    first = text.splitlines()[0]
    assert first.startswith("Returns ") and first.endswith(".")
    for part in ("Args:", "Returns:", "Raises:", "Example:", ">>> "):
        assert part in text, part
    assert re.search(r"\n\n {4}(l|L|m|l_p) = .*\n", text), "a formula in a block of its own"
    assert "(N,) " in text or "(N, " in text or "(T,)" in text
    assert name == "weighted_sum" or "Source:" in text
    assert name in ("weighted_sum", "attribute_margin") or "bfloat16" in text
    assert not re.findall(r"<\w+>", text)  # a shared paragraph that was not filled in
    assert all(len(line) <= 106 for line in text.splitlines())
    told = re.findall(r"\w+", text.partition("Args:")[2].partition("Returns:")[0])
    assert not set(inspect.signature(function).parameters) - set(told)


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - WITHOUT_EXAMPLE))
def test_public_name_has_an_example_of_at_most_six_lines(name):
    text = inspect.getdoc(PUBLIC[name])
    lines = text.partition("Example:\n")[2].splitlines()
    assert any(line.strip().startswith(">>> ") for line in lines) and len(lines) <= 6


@pytest.mark.parametrize("path", [p for p in SOURCES if ">>> " in p.read_text()], ids=name_of)
def test_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name_of(path))
    done = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted and not done.failed


@pytest.mark.parametrize("name", [n for n, item in PUBLIC.items() if inspect.isclass(item)])
def test_a_class_tells_nothing_that_is_torchs_or_untrue(name):
    made, forward = PUBLIC[name].__init__, getattr(PUBLIC[name], "forward", None)
    assert inspect.getdoc(made) != inspect.getdoc(torch.nn.Module.__init__)
    if isinstance(forward, types.FunctionType):
        assert inspect.signature(inspect.unwrap(forward)).return_annotation != "None"


@pytest.mark.slow
def test_manual_is_built_without_warnings_and_works_offline(tmp_path):
    pytest.importorskip("pdoc", reason="the manual needs pdoc")
    makefile = (ROOT / "Makefile").read_text()
    command = re.search(r"-m pdoc (.*) -o runs/docs (.*)$", makefile, re.M)
    command = [*command[1].split(), "-o", str(tmp_path), *command[2].split()]
    done = subprocess.run(
        [sys.executable, "-m", "pdoc", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    text = "".join(pages.values())
    for name in PUBLIC:
        package, _, own = name.rpartition(".")
        page = pages[tmp_path / f"{package.replace('.', '/')}.html"]
        assert f'<section id="{own}">' in page, name
    assert not re.findall(r'<section id="(?:\w+\.)*_(?!_init__)\w+">', text)
    assert not re.findall(r'(?:src|<link[^>]*href)="https?:', text)
    assert set(re.findall(r'<h6 id="([\w-]+?)(?:-\d+)?">', text)) <= SECTIONS
    for path, page in pages.items():
        links = re.findall(r'href="([^"#:$]+)(?:#[^"]*)?"', page)
        assert all((path.parent / link).exists() for link in links)
    front = pages[tmp_path / "mtlfast.html"]
    assert all(f'href="mtlfast/{wing}.html' in front for wing in WINGS)
