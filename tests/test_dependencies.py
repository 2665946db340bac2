"""What the package needs: torch alone for the core, and the rest as pyproject.toml lists it."""

import ast
import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Distributions that are called otherwise than what they install.
CALLED = {"PIL": "pillow", "sklearn": "scikit-learn", "pytorch_metric_learning": None}
# Whose losses the bench compares with, where they are at hand.
CALLED |= {"sentence_transformers": None}
# Modules that need an extra, and which.
NEED = {
    "data": "train",
    "train": "train",
    "recipes": "train",
    "cli": "train",
    "bench": "bench",
    "kernels": "triton",
}


def names(requirements):
    return {re.match(r"[\w.-]+", each)[0] for each in requirements}


def outside(path):
    """Returns what a file imports that is neither Python's nor ours, as distributions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    found -= {*sys.stdlib_module_names, "mtlfast"}
    return {CALLED.get(name, name) for name in found} - {None}


@pytest.mark.parametrize("wing", ["core", *NEED])
def test_what_is_imported_is_listed(wing):
    package = ROOT / "mtlfast"
    inside = {path for name in NEED for path in (package / name).rglob("*.py")}
    inside |= {package / f"{name}.py" for name in NEED if (package / f"{name}.py").exists()}
    if wing == "core":
        paths, listed = set(package.rglob("*.py")) - inside, set()
    elif wing == "kernels":
        paths, listed = set((ROOT / "kernels").glob("*.py")), names(EXTRAS["triton"])
    else:
        paths = {*(package / wing).rglob("*.py"), package / f"{wing}.py"} & inside
        listed = names(EXTRAS[NEED[wing]])
    assert paths
    for path in sorted(paths):
        assert outside(path) <= {"torch", *listed}, path


def test_the_core_depends_on_torch_alone():
    assert names(PROJECT["dependencies"]) == {"torch"}


ABSENT = """
import sys, warnings
warnings.simplefilter("ignore")  # torch's own, of numpy

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        hidden = name.split(".")[0] in sys.argv[1:]
        return None if hidden else self.finder.find_spec(name, *rest)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
import torch
import mtlfast, mtlfast.functional as MF
assert not set(sys.argv[1:]) & set(sys.modules), set(sys.argv[1:]) & set(sys.modules)
torch.manual_seed(0)
weighting = mtlfast.weighting.Uncertainty(3)
x, e = torch.randn(8, 3, requires_grad=True), torch.randn(8, 4, requires_grad=True)
y, labels = torch.randint(0, 2, (8, 3)), torch.arange(8) % 3
for backend in ("auto", "reference"):
    loss, tasks = MF.binary_cross_entropy_with_logits(x, y, return_tasks=True, backend=backend)
    loss = loss + weighting(tasks.loss, tasks.count)
    loss = loss + MF.batch_triplet_loss(e, labels, backend=backend)
    loss = loss + MF.triplet_margin_loss(e, e.flip(0), e.roll(1, 0), backend=backend)
    loss.backward()
print(mtlfast.info())
print("ran", bool(x.grad.isfinite().all() and e.grad.isfinite().all()))
"""


def test_the_core_runs_where_nothing_but_torch_is_there():
    absent = ["accelerate", "matplotlib", "numpy", "pandas", "PIL", "safetensors", "scipy"]
    absent += ["sklearn", "torchmetrics", "tqdm", "triton"]
    command = [sys.executable, "-c", ABSENT, *absent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("ran True\n")


@pytest.mark.parametrize("there", [True, False], ids=["Python.h", "no Python.h"])
def test_numerics_alone_needs_the_headers_of_python(monkeypatch, tmp_path, capsys, there):
    told = {}
    monkeypatch.setattr("setuptools.setup", told.update)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["setup.py", "build_ext", "--inplace"])
    monkeypatch.setenv("MTLFAST_CUDA", "0")
    monkeypatch.setenv("CXX", "true")
    monkeypatch.chdir(ROOT)
    if there:
        (tmp_path / "Python.h").touch()
    runpy.run_path("setup.py", run_name="__main__")
    names = [extension.name for extension in told["ext_modules"]]
    assert names == ["mtlfast.libmtlfast", "mtlfast._numerics"][: 1 + there]
    assert ("Python.h" in capsys.readouterr().err) != there
