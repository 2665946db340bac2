"""The build and its helpers: what they say, what they pack, what they leave out."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch

from mtlfast.ops import native

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOP = {"csrc", "mtlfast", "kernels", "tests", "benches", "setup.py", "README.md", "Makefile"}
TOP |= {"pyproject.toml", "MANIFEST.in", "constraints.txt", "LICENSE", "CHANGELOG.md"}
TOP |= {"CONTRIBUTING.md", ".clang-format", ".gitignore", ".ci"}

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="no make on the PATH")
needs_native = pytest.mark.skipif(
    native.PATH is None, reason="this installation has no native part"
)


def load(path):
    """Returns a script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """A copy of what a build reads, so that no test writes into the repository."""
    copy = tmp_path / "checkout"
    for name in ("csrc", "kernels", "mtlfast"):
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy


def inherited():
    """Returns the environment less what a surrounding make or its user chose."""
    chosen = ("MTLFAST_NATIVE", "MTLFAST_CUDA", "CXX", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    return {name: value for name, value in os.environ.items() if name not in chosen}


def make(*arguments):
    """Runs make in the repository and returns the finished process."""
    command = ["make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=inherited(), capture_output=True, text=True)


def setup_py(checkout, *arguments, **environment):
    """Runs setup.py and returns the finished process."""
    command = [sys.executable, "setup.py", "-q", *arguments]
    environment = {**inherited(), **environment}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def fake_torch(folder, source):
    """Returns an environment in which `import torch` runs `source`, and the compiler is there."""
    (folder / "torch.py").write_text(source)
    return {"PYTHONPATH": str(folder), "CXX": "true"}


@pytest.mark.parametrize(
    "source, said",
    [
        ("raise ModuleNotFoundError('No module named torch', name='torch')", "none is here"),
        ("__version__ = '2.10.1+cu128'", "this is 2.10.1+cu128"),
    ],
    ids=["missing", "old"],
)
def test_unfit_torch_gives_one_sentence(checkout, tmp_path, source, said):
    done = setup_py(checkout, "egg_info", **fake_torch(tmp_path, source))
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "pip install 'torch>=2.11'" in line and "--no-build-isolation" in line


@pytest.mark.parametrize("how", [{"MTLFAST_NATIVE": "0"}, {"CXX": "no-such-compiler"}], ids=str)
def test_without_compiler_the_wheel_is_pure_python(checkout, how):
    done = setup_py(checkout, "bdist_wheel", **how)
    assert done.returncode == 0, done.stderr
    (sentence,) = (line for line in done.stderr.splitlines() if "left out" in line)
    assert next(iter(how)) in sentence or "no-such-compiler" in sentence
    (wheel,) = checkout.glob("dist/*-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    ours = [path for path in (checkout / "mtlfast").rglob("*") if path.is_file()]
    assert {str(path.relative_to(checkout)) for path in ours} <= set(names)
    assert {f"mtlfast/kernels/{path.name}" for path in ROOT.glob("kernels/*.py")} <= set(names)
    assert not [name for name in names if name.endswith(".so")]
    assert not [name for name in names if name.startswith(("tests", "csrc"))]


RUN_WITHOUT_NATIVE = """
import pathlib, sys, torch
# An editable install's finder would lend the native part of the checkout.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import mtlfast, mtlfast.functional as MF
assert pathlib.Path(mtlfast.__file__).is_relative_to(sys.argv[1]), mtlfast.__file__
assert not mtlfast.available_backends()["native"]
x, y = torch.randn(4, 3), torch.rand(4, 3)
expected = torch.nn.functional.binary_cross_entropy_with_logits(x, y)
torch.testing.assert_close(MF.binary_cross_entropy_with_logits(x, y), expected)
print(mtlfast.info())
try:
    MF.binary_cross_entropy_with_logits(x, y, backend="native")
except Exception as error:
    print("ERROR", error)
"""


def test_pure_python_package_runs(checkout, tmp_path):
    packages = tmp_path / "packages"
    done = setup_py(checkout, "build", f"--build-lib={packages}", MTLFAST_NATIVE="0")
    assert done.returncode == 0, done.stderr
    environment = {**inherited(), "PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", RUN_WITHOUT_NATIVE, str(packages)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (said,) = (line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    assert "native" in said and "compiler" in said


RUN_NATIVE = """
import pathlib, sys, torch
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import mtlfast, mtlfast.functional as MF
from mtlfast.ops import native
assert pathlib.Path(native.PATH).is_relative_to(sys.argv[1]), native.PATH
x, y = torch.randn(4, 3, requires_grad=True), torch.rand(4, 3)
loss = MF.binary_cross_entropy_with_logits(x, y, backend="native")
loss.backward()
expected = torch.nn.functional.binary_cross_entropy_with_logits(x, y)
torch.testing.assert_close(loss, expected)
torch.testing.assert_close(x.grad, torch.autograd.grad(expected, x)[0])
"""


PACK = """
import runpy, shutil, sys
from pathlib import Path
from torch.utils.cpp_extension import BuildExtension

built = sys.argv.pop(1)

def copy(self):
    for extension in self.extensions:
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(built, target)

BuildExtension.build_extensions = copy
sys.argv[0] = "setup.py"
runpy.run_path("setup.py", run_name="__main__")
"""


@needs_native
def test_wheel_with_the_native_part_runs_away_from_the_checkout(tmp_path):
    """What the checkout has compiled is packed; nothing compiles again."""
    lib, dist, packages = (str(tmp_path / name) for name in ("lib", "dist", "packages"))
    setup = ["egg_info", f"--egg-base={tmp_path}", "build", f"--build-lib={lib}", "bdist_wheel"]
    setup += [f"--bdist-dir={tmp_path / 'bdist'}", f"--dist-dir={dist}"]
    command = [sys.executable, "-c", PACK, native.PATH, *setup]
    done = subprocess.run(command, cwd=ROOT, env=inherited(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = Path(dist).glob("*.whl")
    assert wheel.stat().st_size < 8e6
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
        contents = {name: file.read(name) for name in file.namelist()}
    assert "mtlfast/kernels/pointwise.py" in contents
    assert not [name for name in contents if "_numerics" in name]
    assert not [name for name, content in contents.items() if str(ROOT).encode() in content]
    environment = {**inherited(), "PYTHONPATH": packages, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", RUN_NATIVE, packages]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sdist_holds_every_source(checkout):
    done = setup_py(checkout, "sdist", MTLFAST_NATIVE="0")
    assert done.returncode == 0, done.stderr
    (archive,) = checkout.glob("dist/*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    for folder in ("csrc", "kernels", "mtlfast"):
        files = [p for p in (checkout / folder).rglob("*") if p.is_file()]
        assert {str(p.relative_to(checkout)) for p in files} <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= names


def test_top_level_is_as_designed():
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in done.stdout.splitlines()} <= TOP


def test_installed_version_is_the_projects():
    try:
        assert importlib.metadata.version("mtlfast") == PROJECT["version"]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("mtlfast is not installed")


@needs_native
def test_native_part_holds_no_path_of_this_machine():
    binary = Path(native.PATH).read_bytes()
    for path in (ROOT / "csrc", Path(torch.__file__).parent, Path(sys.base_prefix, "lib")):
        assert bytes(path) not in binary


@needs_make
@pytest.mark.parametrize(
    "target",
    ["help", "install", "demo", "test", "bench", "bench-compare", "wheel", "lint", "docs", "clean"],
)
def test_makefile_target_parses(target):
    done = make("-n", target)
    assert done.returncode == 0, done.stderr


@needs_make
def test_gpu_report_target_hands_on_its_folder():
    done = make("-n", "gpu-report", "OUT=there", "PYTHON=python9", "STAGE=bench")
    assert 'python9 benches/gpu_report.py "there" --stage bench' in done.stdout


def test_makefile_keeps_to_make_3_81():
    text = (ROOT / "Makefile").read_text()
    assert not re.search(r"^\.ONESHELL|^\.RECIPEPREFIX|^\w+ *(!=|::+=)|\$\(file |&:", text, re.M)
    targets = re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()
    told = re.findall(r'"make ([\w-]+)', text)
    assert sorted(set(told)) == sorted(set(targets) - {"help"})


@pytest.mark.parametrize(
    "missing, said", [("version", "needs Python 3.11"), ("compiler", "No C++ compiler")]
)
def test_bare_machine_is_told_what_it_lacks(monkeypatch, missing, said):
    environment = load(".ci/environment.py")
    monkeypatch.delenv("MTLFAST_NATIVE", raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler" if missing == "compiler" else "true")
    if missing == "version":
        monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=re.escape(said)) as stopped:
        environment.check_python()
        environment.check_compiler()
    assert "\n" not in str(stopped.value)


def test_every_requirement_is_pinned():
    environment = load(".ci/environment.py")
    pins = {environment.normal(pin.split("==")[0]) for pin in environment.constraints({})}
    names = [re.match(r"[\w.-]+", wanted)[0] for wanted in environment.requirements({})]
    assert {environment.normal(name) for name in names} <= pins


def test_an_extra_is_asked_for_by_the_name_that_older_pips_find():
    asked = [need for group in PROJECT["optional-dependencies"].values() for need in group]
    extras = [name for need in asked for name in re.findall(r"\[(.*)\]", need)]
    assert extras and all(re.fullmatch(r"[a-z0-9-]+", name) for name in extras)


@pytest.mark.parametrize("torch_version, triton", [("2.11.0+cu130", "3.6.0"), ("2.13.0", "3.7.1")])
def test_torch_at_hand_is_kept_with_a_matching_triton(torch_version, triton):
    environment = load(".ci/environment.py")
    kept = environment.constraints({"torch": torch_version, "numpy": "9.9"})
    assert {f"torch=={torch_version}", f"triton=={triton}"} <= set(kept)
    assert len([pin for pin in kept if pin.startswith(("torch==", "triton==", "numpy"))]) == 2
