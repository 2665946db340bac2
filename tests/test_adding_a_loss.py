"""The README's steps make a new loss: on a copy, with one of each family, the suite agrees."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
# CUDA takes minutes to compile and follows the same functor, so it is left out of the build, as are
# mtlfast._numerics, which no loss needs (-i: in place, mtlfast._C alone), and the CPU's losses on a
# batch, which did not change; and optimised, csrc/cpu/pointwise.cpp takes a minute instead of six
# seconds.
BUILD = """
import sys
sys.argv = ["setup.py", "-q", "build_ext", "-i"]
source = open("setup.py").read()
for usual, quick in (("-O3", "-O0"), ("csrc/cpu/*.cpp", "csrc/cpu/[pr]o[iw]*.cpp")):
    assert source.count(usual) == 1, usual
    source = source.replace(usual, quick)
exec(compile(source, "setup.py", "exec"), {"__name__": "__main__", "__file__": "setup.py"})
"""

# What is written: the file, the text that follows (None: the file ends), and the new text.
POINTWISE = [
    (
        "mtlfast/ops/reference.py",
        "SMALLEST_NORM",
        """def squared_hinge_loss(x: Tensor, y: Tensor) -> Tensor:
    return _hinge(1 - (2 * y - 1) * x) ** 2


""",
    ),
    (
        "mtlfast/ops/catalogue.py",
        '    Loss("mse_loss"',
        """    Loss(
        "squared_hinge_loss",
        "pointwise",
        reference.squared_hinge_loss,
        classification=True,
    ),
""",
    ),
    (
        "csrc/pointwise.h",
        "struct MseLoss",
        """struct SquaredHingeLoss {
  static constexpr const char* kName = "squared_hinge_loss";
  static constexpr bool kClassification = true, kWeightedMean = false, kWide = true;
  static constexpr int kParams = 1;

  template <class F, class K>
  MTLFAST_INLINE static F value(F x, F y, F, const K&) {
    const F violation = F(1) - (F(2) * y - F(1)) * x;
    return violation < F(0) ? F(0) : violation * violation;
  }
  template <class F, class K>
  MTLFAST_INLINE static F grad(F x, F y, F, const K&) {
    const F sign = F(2) * y - F(1), violation = F(1) - sign * x;
    return violation < F(0) ? F(0) : F(-2) * sign * violation;
  }
};

""",
    ),
    ("csrc/pointwise.h", "  X(MseLoss)", "  X(SquaredHingeLoss) \\\n"),
    (
        "kernels/losses.py",
        "@triton.jit\ndef mse_loss_value",
        """@triton.jit
def squared_hinge_loss_value(x, y, p, a, b, c, d, POWER: tl.constexpr):
    violation = 1.0 - (2.0 * y - 1.0) * x
    return tl.where(violation < 0, 0.0, violation * violation)


@triton.jit
def squared_hinge_loss_grad(x, y, p, a, b, c, d, POWER: tl.constexpr):
    sign = 2.0 * y - 1.0
    violation = 1.0 - sign * x
    return tl.where(violation < 0, 0.0, -2.0 * sign * violation)


""",
    ),
    (
        "kernels/losses.py",
        '    "mse_loss": Functor',
        """    "squared_hinge_loss": Functor(
        squared_hinge_loss_value, squared_hinge_loss_grad, classification=True
    ),
""",
    ),
    ("mtlfast/functional/pointwise.py", '"sigmoid_focal_loss"]', '"squared_hinge_loss", '),
    (
        "mtlfast/functional/pointwise.py",
        None,
        '''

@with_tasks
@documented
def squared_hinge_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    task_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    return_tasks: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the squared hinge loss of scores, labels missing or not.

    With a label y from 0 to 1,

        l = max(0, 1 - (2 y - 1) x)^2

    <missing>
    <layout>

    Args:
        input: (N, T) scores: float32, float64, bfloat16 or float16.
        <target>
        <reduction>
        <smoothing>
        <mask>
        <weights>

    Returns:
        <returns>

    Raises:
        <raises>

    Source: Tang, Deep Learning using Linear Support Vector Machines, equation 8.

    Example:
        >>> import torch
        >>> squared_hinge_loss(torch.tensor([[0.5, 3.0]]), torch.tensor([[1, -1]]))
        tensor(0.2500)
    """
    return pointwise(
        "squared_hinge_loss",
        input,
        target,
        {},
        reduction,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        mask=mask,
        task_weight=task_weight,
        sample_weight=sample_weight,
        return_tasks=return_tasks,
        backend=backend,
    )
''',
    ),
    ("mtlfast/modules/pointwise.py", '    "SmoothL1Loss"', '    "SquaredHingeLoss",\n'),
    (
        "mtlfast/modules/pointwise.py",
        None,
        '''

class SquaredHingeLoss(Loss):
    """Squared hinge loss; options as `functional.squared_hinge_loss`.

    Example:
        >>> import torch
        >>> SquaredHingeLoss()(torch.tensor([[0.5, 3.0]]), torch.tensor([[1, -1]]))
        tensor(0.2500)
    """

    function = MF.squared_hinge_loss
''',
    ),
]
ROWS = [
    (
        "mtlfast/ops/reference.py",
        None,
        """

def halved_triplet_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float | Tensor
) -> Tensor:
    near, far = minkowski_distance(anchor, positive), minkowski_distance(anchor, negative)
    return _hinge(near - far + margin) / 2
""",
    ),
    (
        "mtlfast/ops/catalogue.py",
        '    Loss(\n        "normalized_triplet_loss"',
        """    Loss(
        "halved_triplet_loss",
        "rows",
        reference.halved_triplet_loss,
        {"margin": 1.0},
    ),
""",
    ),
    (
        "csrc/rows.h",
        "// The names as in MF",
        """// Half of max(0, d_ap - d_an + margin).
struct HalvedTripletLoss {
  template <class F>
  MTLFAST_INLINE static F value(const F* d, const RowTerms<F>& row, F* slopes) {
    const F h = d[0] - d[1] + row.margin;
    slopes[0] = F(0.5) * hinge_slope(h);
    slopes[1] = -slopes[0];
    return F(0.5) * hinge(h);
  }
};

""",
    ),
    ("csrc/rows.h", "\n\n}  // namespace mtlfast", " \\\n  X(halved_triplet_loss)"),
    ("csrc/rows_call.h", ", kHierarchical };", ", kHalvedTriplet"),
    (
        "csrc/rows_call.h",
        "  } else {\n    takes(call->inputs >= 3",
        """  } else if (loss == RowsName::halved_triplet_loss) {
    takes(call->inputs == 3 && params.size() == 1, "3 rows and 1 param");
    call->loss = RowsLoss::kHalvedTriplet;
    call->margin_value = params[0];
""",
    ),
    (
        "csrc/rows_call.h",
        "    case RowsLoss::kCosineContrastive:\n",
        """    case RowsLoss::kHalvedTriplet:
      return visit(HalvedTripletLoss{});
""",
    ),
    (
        "kernels/row_losses.py",
        "class Metric(NamedTuple)",
        """@triton.jit
def halved_triplet_loss_value(
    d, gaps, same, scale, bias, overlap, SWAP: tl.constexpr, SOFT: tl.constexpr
):
    h = d[0] - d[1] + gaps[0]
    slope = 0.5 * hinge_slope(h)
    return 0.5 * hinge(h), (slope, -slope)


""",
    ),
    (
        "kernels/row_losses.py",
        "# The names as in MF",
        """def _halved_triplet_loss(margin: float) -> Settings:
    return Settings(halved_triplet_loss_value, (margin,), normalize=False, squared=False)


""",
    ),
    (
        "kernels/row_losses.py",
        "}\n\n\n@functools.lru_cache",
        '    "halved_triplet_loss": _halved_triplet_loss,\n',
    ),
    ("mtlfast/functional/rows.py", '    "triplet_margin', '    "halved_triplet_loss",\n'),
    (
        "mtlfast/functional/rows.py",
        None,
        '''

@documented
def halved_triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Returns the halved triplet loss of rows.

    With d the Euclidean distance,

        l = max(0, d(a, p) - d(a, n) + m) / 2

    <rows>

    Args:
        anchor, positive, negative: <embeddings>
        <margin>
        <shared>

    Returns:
        <row_returns>

    Raises:
        <raises>

    Source: triplet_margin_loss, with the factor one half of normalized_triplet_loss.

    Example:
        >>> import torch
        >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
        >>> halved_triplet_loss(a, p, n)
        tensor(3.)
    """
    check_margin(margin, 0.0, inclusive=True)
    return rows(
        "halved_triplet_loss",
        {"anchor": anchor, "positive": positive, "negative": negative},
        {"margin": margin},
        reduction,
        sample_weight=sample_weight,
        backend=backend,
    )
''',
    ),
    ("mtlfast/modules/embeddings.py", '    "TripletMarginLoss"', '    "HalvedTripletLoss",\n'),
    (
        "mtlfast/modules/embeddings.py",
        None,
        '''

class HalvedTripletLoss(_TripletLoss):
    """Halved triplet loss; call it with ``(anchor, positive, negative)``.

    Example:
        >>> import torch
        >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
        >>> HalvedTripletLoss()(a, p, n)
        tensor(3.)
    """

    function = MF.halved_triplet_loss
''',
    ),
]
NEW = [*POINTWISE, *ROWS]
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++"))
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="no C++ compiler or no Python.h",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository with the new loss, not yet built."""
    copy = tmp_path_factory.mktemp("repository")
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "kernels")
    for name in {"benches", "csrc", "mtlfast", "tests"} & {path.name for path in ROOT.iterdir()}:
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    shutil.copytree(ROOT / "kernels", copy / "kernels")
    (copy / "mtlfast/kernels").symlink_to("../kernels")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for name, before, lines in NEW:
        text = (copy / name).read_text()
        at = len(text) if before is None else text.index(before)
        (copy / name).write_text(text[:at] + lines + text[at:])
    return copy


def run(copy, *command, **more):
    """Returns a finished process that sees the copy only."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "MAX_JOBS": "2", **more}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("MTLFAST_NATIVE", None)
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def suite(copy, *arguments, **more):
    """Runs some of the copy's tests."""
    return run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, **more)


def test_a_loss_is_added_in_few_files_which_the_readme_names():
    assert len({name for name, _, _ in POINTWISE}) <= 6
    assert len({name for name, _, _ in ROWS}) <= 7
    steps = (ROOT / "README.md").read_text().partition("## Adding a loss")[2].partition("\n## ")[0]
    told = re.findall(r"`((?:mtlfast|csrc|kernels|tests)/[\w/]+\.(?:py|h))`", steps)
    assert {name for name, _, _ in NEW} <= set(told)


MIRRORS = {
    "csrc/pointwise.h": "test_structure.py::test_every_loss_has_its_native_functor",
    "csrc/rows.h": "test_structure.py::test_every_loss_on_rows_has_its_native_functor",
    "kernels/losses.py": "test_structure.py::test_every_loss_has_its_triton_mirror",
    "kernels/row_losses.py": "test_structure.py::test_every_loss_on_rows_has_its_triton_mirror",
    "mtlfast/modules/pointwise.py": (
        "test_catalogue.py::test_every_public_loss_has_a_record_and_a_module"
    ),
}


def test_suite_fails_while_mirrors_are_missing(copy):
    """Each of these tests reads one of the files, so that all can be tried in one process."""
    finished = {name: (copy / name).read_text() for name in MIRRORS}
    try:
        for name in MIRRORS:
            (copy / name).write_text((ROOT / name).read_text())
        done = suite(copy, *(f"tests/{failing}" for failing in MIRRORS.values()))
    finally:
        for name, text in finished.items():
            (copy / name).write_text(text)
    failed = set(re.findall(r"^FAILED tests/(\S+)", done.stdout, re.M))
    assert failed == set(MIRRORS.values()), done.stdout


@needs_compiler
def test_suite_agrees_once_every_mirror_is_there(copy):
    built = run(copy, "-c", BUILD, MTLFAST_CUDA="0")
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    chosen = "squared_hinge or SquaredHinge or halved_triplet or HalvedTriplet"
    chosen += " or every_loss or every_public_loss or every_option"
    chosen += " or pointwise.py"
    # Kernels take seconds each to compile, and those of the other losses did not change.
    chosen = f"({chosen}) and not (test_every_loss_compiles and not squared_hinge)"
    left_out = [
        f"--ignore=tests/test_{name}.py" for name in ("adding_a_loss", "numerics", "functors")
    ]
    done = suite(copy, "tests", *left_out, "-vv", "-k", chosen)
    assert done.returncode == 0, done.stdout[-6000:]
    match = "values_and_gradients_match_float64"
    for loss in ("squared_hinge_loss", "halved_triplet_loss"):
        assert f"test_{match}[native-cpu-float32-{loss}" in done.stdout


def test_interpreted_kernel_agrees(copy):
    tools = pytest.importorskip("triton_tools")
    if tools.interprets.args[0]:
        pytest.skip(tools.interprets.kwargs["reason"])
    chosen = "squared_hinge and test_every_reduction"
    done = suite(copy, "tests/triton_interpreted.py", "-k", chosen, TRITON_INTERPRET="1")
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout[-6000:]
