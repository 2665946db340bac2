"""Which test files go through the losses: what a new loss must pass."""

import ast
import re

# The test that asks for them, and those of mtlfast._numerics, which is not built.
LEFT_OUT = {f"test_{name}.py" for name in ("adding_a_loss", "numerics", "functors")}


def imports(path):
    """Returns the names that a file imports, wherever in it; those of our own and of tests."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def read_by(path, seen=()):
    """Returns what a test file imports itself and through the helpers beside it."""
    names = imports(path)
    for name in names - {*seen}:
        helper = path.parent / f"{name}.py"
        if helper.exists():
            names |= read_by(helper, (*seen, *names))
    return names


# Where losses are listed beside the case table; and what is of no loss, and long to import.
LISTS = {"mtlfast.functional", "mtlfast.ops.catalogue"}
TRAINS = {"mtlfast.data", "mtlfast.recipes", "mtlfast.train"}


def files_of_losses(tests):
    """Returns the test files that go through the losses, found by what they import or promise."""
    found = []
    for path in sorted(tests.glob("test_*.py")):
        names = read_by(path)
        promises = re.search(r"def test_every_(public_)?loss", path.read_text())
        if promises or "cases" in names or (names & LISTS and not names & TRAINS):
            found.append(path)
    return [path for path in found if path.name not in LEFT_OUT]
