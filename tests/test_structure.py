"""The house keeps its rules: imports, mirrors, short files, no host sync."""

import ast
import re
import sys
from pathlib import Path

import pytest
from repetition import repeated

from mtlfast.ops import catalogue

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
SOURCES = sorted(path for path in (ROOT / "mtlfast").rglob("*.py"))
KERNELS = sorted((ROOT / "kernels").glob("*.py"))
NATIVE = sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cuh", ".cpp", ".cu"))
LOSSES = list(catalogue.KERNELS["pointwise"])

# What a module may import of ours: what stands below it.
LAYERS = [
    ("mtlfast.kernels", "mtlfast.ops.reference", "mtlfast.ops.reference_inbatch"),
    ("mtlfast.ops.catalogue",),
    ("mtlfast.ops.fakes", "mtlfast.ops.reference_ops"),
    ("mtlfast.ops.native",),
    ("mtlfast.ops.backends",),
    ("mtlfast.ops.autograd", "mtlfast.ops.inbatch", "mtlfast.ops.autograd_inbatch"),
    ("mtlfast.functional",),
    ("mtlfast.modules", "mtlfast.weighting", "mtlfast.margin", "mtlfast.distributed"),
    ("mtlfast.writing",),
    ("mtlfast.data",),
    ("mtlfast.train",),
    ("mtlfast.recipes", "mtlfast.bench", "mtlfast.options"),
    ("mtlfast.cli",),
    ("mtlfast.__main__",),
]
PUBLIC = ("mtlfast.functional", "mtlfast.modules", "mtlfast.weighting", "mtlfast.distributed")


def relative(path):
    return str(path.relative_to(ROOT))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Returns every module a file imports, inside functions too."""
    found = set()
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            found |= {
                f"{base}.{alias.name}" if is_module(base, alias.name) else base
                for alias in node.names
            }
    return found


def is_module(base, name):
    path = ROOT.joinpath(*base.split("."), name)
    return path.is_dir() or path.with_suffix(".py").exists()


def layer(name):
    """Returns how high a module of ours stands; the package itself stands above its wings."""
    for height, prefixes in enumerate(LAYERS):
        if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes):
            return height
    return {"mtlfast": 7.5, "mtlfast.ops": 0}[name]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_never_turn_back(path):
    own = module_name(path)
    for name in imports(path):
        if name.split(".")[0] == "mtlfast":
            assert layer(name) <= layer(own), f"{own} imports {name}"


def test_no_file_imports_in_a_circle():
    """Type-checking imports count too: who cannot do without a name cannot do without its file."""
    known = {module_name(path): path for path in SOURCES}
    below = {name: imports(path) & known.keys() - {name} for name, path in known.items()}
    ends = {""}
    while ends:
        ends = {name for name, names in below.items() if not names & below.keys()}
        ends |= below.keys() - set().union(*below.values())
        below = {name: names for name, names in below.items() if name not in ends}
    assert not {name: sorted(names & below.keys()) for name, names in below.items()}


# What each of these may import beside the public face.
WINGS = {
    "data": ("mtlfast.data", "mtlfast.writing"),
    "train": ("mtlfast.data", "mtlfast.train", "mtlfast.writing"),
    "recipes": ("mtlfast.data", "mtlfast.train", "mtlfast.recipes", "mtlfast.writing"),
    "bench": ("mtlfast.bench", "mtlfast.writing"),
}


@pytest.mark.parametrize("wing", WINGS)
def test_data_training_and_bench_use_the_public_face_only(wing):
    allowed = (*PUBLIC, *WINGS[wing])
    for path in sorted((ROOT / "mtlfast" / wing).rglob("*.py")):
        ours = {name for name in imports(path) if name.split(".")[0] == "mtlfast"} - {"mtlfast"}
        assert all(name.startswith(allowed) for name in ours), (relative(path), ours)


def test_bench_needs_torch_and_matplotlib_only():
    needed = {"matplotlib", "mtlfast", "torch"}
    rivals = {"pytorch_metric_learning", "sentence_transformers"}
    for path in sorted((ROOT / "mtlfast" / "bench").glob("*.py")):
        outside = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names
        assert outside <= needed | rivals, (relative(path), outside)


def test_reference_imports_torch_alone():
    outside = imports(ROOT / "mtlfast/ops/reference.py") - {"__future__", "collections.abc"}
    assert {name.split(".")[0] for name in outside} == {"torch"}


@pytest.mark.parametrize("path", KERNELS, ids=relative)
def test_triton_kernels_import_nothing_of_ours(path):
    assert not [name for name in imports(path) if name.split(".")[0] == "mtlfast"]


def included(path):
    """Returns what a native file includes, through our own headers too: paths or <names>."""
    found, pending = set(), [path]
    while pending:
        current = pending.pop()
        for quoted, name in re.findall(r'^#include (["<])([^">]+)', current.read_text(), re.M):
            places = [current.parent / name, CSRC / name] if quoted == '"' else []
            header = next((place.resolve() for place in places if place.exists()), name)
            if header not in found:
                found.add(header)
                pending += [header] if isinstance(header, Path) else []
    return found


@pytest.mark.parametrize("path", NATIVE, ids=relative)
def test_native_includes_keep_their_direction(path):
    headers = included(path)
    ours = {relative(header) for header in headers if isinstance(header, Path)}
    others = {header for header in headers if not isinstance(header, Path)}
    if path.parent.name == "cpu":
        assert not [name for name in ours if name.startswith("csrc/cuda")]
    elif path.parent.name == "cuda":
        assert not [name for name in ours if name.startswith("csrc/cpu")]
    elif not path.stem.startswith("numerics"):  # which shows tests both sides
        assert not [name for name in ours if name.startswith(("csrc/cpu", "csrc/cuda"))]
    if path.name in ("math.h", "pointwise.h", "rows.h"):
        assert not [name for name in others if name.startswith(("torch", "ATen", "c10", "pybind"))]
    allowed = ("torch/csrc/stable/", "torch/csrc/inductor/aoti_torch/", "torch/headeronly/")
    assert all(name.startswith(allowed) for name in others if name.startswith("torch/"))
    assert not [name for name in others if name.startswith(("ATen", "c10"))]


def functors():
    """Returns {loss name: functor name} of csrc/pointwise.h, in the order of its list."""
    text = (CSRC / "pointwise.h").read_text()
    listed = re.findall(r"\bX\((\w+)\)", text.partition("#define MTLFAST_POINTWISE_LOSSES(X)")[2])
    found = {}
    for functor in listed:
        body = re.search(rf"^struct {functor}(?: : \w+)? \{{$(.*?)^\}};$", text, re.M | re.S)[1]
        assert re.search(r"static F value\(", body) and re.search(r"static F grad\(", body)
        found[re.search(r'kName = "(\w+)"', body)[1]] = functor
    return found


def test_every_loss_has_its_native_functor():
    assert list(functors()) == LOSSES


def test_every_loss_on_rows_has_its_native_functor():
    """Its number is its place in the list."""
    text = (CSRC / "rows.h").read_text().partition("#define MTLFAST_ROWS_LOSSES(X)")[2]
    assert tuple(re.findall(r"\bX\((\w+)\)", text)) == catalogue.KERNELS["rows"]


def test_every_loss_on_rows_has_its_triton_mirror():
    tree = ast.parse((ROOT / "kernels/row_losses.py").read_text())
    (listed,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROWS"
    ]
    assert tuple(key.value for key in listed.keys) == catalogue.KERNELS["rows"]


def test_every_loss_has_its_triton_mirror():
    tree = ast.parse((ROOT / "kernels/losses.py").read_text())
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [name.removesuffix("_value") for name in defined if name.endswith("_value")] == LOSSES
    assert [name.removesuffix("_grad") for name in defined if name.endswith("_grad")] == LOSSES


@pytest.mark.parametrize("device", ["Cpu", "Cuda"])
def test_every_native_op_is_implemented_on_every_device(device):
    """Save that Triton does the losses on a whole batch on a GPU."""
    text = (CSRC / "ops.cpp").read_text()
    declared = re.findall(r'library\.def\(\s*"(\w+)\(', text)
    declared = [op for op in declared if device == "Cpu" or not op.startswith("inbatch")]
    shared = re.search(r"^void add_ops.*?^}", text, re.M | re.S)[0]
    own = re.search(
        rf"^STABLE_TORCH_LIBRARY_IMPL\(mtlfast, {device.upper()},.*?}}$", text, re.M | re.S
    )
    assert f"add_ops<mtlfast::{device}>(library)" in own[0]
    registered = re.findall(r'\.impl\("(\w+)", TORCH_BOX\(&Of::(\w+)\)', shared + own[0])
    assert declared and sorted(op for op, _ in registered) == sorted(declared)
    assert all(op == entry for op, entry in registered)


def test_ops_are_registered_in_one_place():
    assert [relative(path) for path in NATIVE if "LIBRARY_IMPL" in path.read_text()] == [
        "csrc/ops.cpp"
    ]


def test_files_stay_short():
    folders = ("mtlfast", "kernels", "csrc", "tests", "benches", ".ci")
    suffixes = {".py", ".h", ".cuh", ".cpp", ".cu"}
    paths = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    lengths = {
        relative(path): len(path.read_text().splitlines())
        for path in [*paths, ROOT / "setup.py"]
        if path.suffix in suffixes
    }
    assert not {path: length for path, length in lengths.items() if length > 300}


# What stands twice all the same: the files, and what it is.
SIGNATURES = "public signatures and what they hand on, written out"
TWICE = {
    ("mtlfast/functional/pointwise.py", "mtlfast/functional/pointwise.py"): SIGNATURES,
    ("mtlfast/functional/pointwise.py", "mtlfast/functional/regression.py"): SIGNATURES,
    ("mtlfast/functional/regression.py", "mtlfast/functional/regression.py"): SIGNATURES,
    ("csrc/cuda/pointwise_backward.cuh", "csrc/cuda/pointwise_forward.cuh"): "loads of a tile",
}


def test_no_block_of_8_lines_stands_twice():
    folders = ("mtlfast", "kernels", "csrc", "benches")
    paths = [path for name in folders for path in sorted((ROOT / name).rglob("*"))]
    paths = [p for p in paths if p.suffix in {".py", *(q.suffix for q in NATIVE)} and p.is_file()]
    found = [[(relative(path), at) for path, at in places] for *places, _ in repeated(paths)]
    files = {(one, other) for (one, _), (other, _) in found}
    assert not [where for where in found if (where[0][0], where[1][0]) not in TWICE]
    assert not TWICE.keys() - files, "these stand once by now: take them out of the table"


def test_a_block_that_stands_twice_is_found_whatever_is_said_about_it(tmp_path):
    block = [f"x{number} = {number}" for number in range(8)]
    head = ["import torch", *(f"from torch import a{number}" for number in range(9))]
    told = [line for one in block for line in (f"{one}  # a word", "# a line of them", "")]
    for name, lines in (("one.py", [*head, *block, "y = 1"]), ("two.py", [*head, "z = 2", *told])):
        (tmp_path / name).write_text("\n".join(lines))
    paths = [tmp_path / "one.py", tmp_path / "two.py"]
    assert repeated(paths) == [((paths[0], 11), (paths[1], 12), 8)]
    (tmp_path / "two.py").write_text("\n".join([*head, *block[:4], "z = 2", *block[4:]]))
    assert repeated(paths) == []


def test_launch_code_exists_once():
    assert [relative(path) for path in NATIVE if "<<<" in path.read_text()] == [
        "csrc/cuda/launch.cuh"
    ]


HOT = [p for p in SOURCES if p.parent.name in ("functional", "modules", "ops", "weighting")]
HOT += [ROOT / "mtlfast/margin.py", *KERNELS]


@pytest.mark.parametrize("path", HOT, ids=relative)
def test_host_is_never_asked_for_a_number(path):
    asked = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in ("item", "cpu", "tolist", "numpy", "nonzero", "masked_select"):
                asked.append(f"{node.lineno}: .{node.func.attr}()")
        elif isinstance(node.func, ast.Name) and node.func.id == "bool":
            asked.append(f"{node.lineno}: bool()")
    assert not asked
