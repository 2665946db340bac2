"""The Triton backend without a GPU: interpreted on the CPU, and compiled ahead of time.

On a GPU the case table of test_accuracy.py runs it like any other backend.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import mtlfast.ops.native as native

triton = pytest.importorskip("triton", reason="triton is not installed")

import torch  # noqa: E402
from mtlfast.kernels import pointwise, pointwise_kernels, rows, rows_kernels  # noqa: E402
from mtlfast.kernels.finish import finish_kernel  # noqa: E402
from mtlfast.kernels.row_losses import settings  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

TESTS = Path(__file__).parent
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
FORWARD, BACKWARD = pointwise_kernels.forward_kernel, pointwise_kernels.backward_kernel
BCE = "binary_cross_entropy_with_logits"

each_target = pytest.mark.parametrize("target", TARGETS)
each_pass = pytest.mark.parametrize("kernel", [FORWARD, BACKWARD], ids=["forward", "backward"])
compiled = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter replaces the compiler"
)


def release(package):
    return tuple(int(part) for part in version(package).split(".")[:2])


@pytest.mark.skipif(
    release("triton") < (3, 7) and release("numpy") >= (2, 4),
    reason="the interpreter of Triton 3.6 does not run with numpy 2.4 or later",
)
@pytest.mark.slow
def test_kernels_match_float64_in_the_interpreter(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    run = subprocess.run(
        [*command, str(TESTS / "triton_interpreted.py")],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


@pytest.mark.skipif(native._C is None, reason="this installation has no native part")
def test_every_native_loss_has_its_functors_here():
    assert list(native._C.losses()["pointwise"]) == list(pointwise.POINTWISE)
    for name, functor in pointwise.POINTWISE.items():
        assert functor.value.__name__ == f"{name}_value"
        assert functor.grad.__name__ == f"{name}_grad"


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 12, 40, 100, 257, 1000, 4097, 40000, 40001])
def test_plan_fills_lanes_and_keeps_loads_wide(tasks, itemsize):
    plan = pointwise.plan(tasks, itemsize)
    length = plan.period * tasks
    assert plan.tiles == -(-length // plan.width)
    assert length % plan.align == 0
    if tasks <= 4096 or tasks % 16 == 0:
        assert plan.align >= 16 // itemsize
        assert length / (plan.tiles * plan.width) > 0.66


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compile_kernel(kernel, types, constants, target, options=None):
    """Returns what `kernel` compiles to, its pointers aligned to 16 bytes."""
    types = {name: "i32" for name in kernel.arg_names} | dict.fromkeys(
        ("keep", "shift", "a", "b", "c", "d", "p", "eps"), "fp32"
    ) | types  # fmt: skip
    signature = {n: "constexpr" if n in constants else types[n] for n in kernel.arg_names}
    paths = [
        ((i, *tail), kind)
        for i, given in enumerate(signature.values())
        for tail, kind in (
            [((), given)] if isinstance(given, str) else [((j,), k) for j, k in enumerate(given)]
        )
    ]
    aligned = {path: [["tt.divisibility", 16]] for path, kind in paths if kind.startswith("*")}
    known = {name: constants[name] for name in kernel.arg_names if name in constants}
    source = ASTSource(kernel, signature, known, aligned)
    options = options or {"num_warps": 256 // target.warp_size}
    return triton.compile(source, target=target, options=options)


def compile_loss(kernel, loss, logits, labels, target, tasks=40):
    """Returns a loss's kernel for the contiguous case without operands."""
    functor = pointwise.POINTWISE[loss]
    plan = pointwise.plan(tasks, 4 if logits == "fp32" else 2)
    factors = ("mask", "weight", "pos_weight", "sample_weight")
    constants = dict.fromkeys((*factors, "elements", "grad_task_loss"))
    constants |= dict.fromkeys(("MASK", "WEIGHT", "POS_WEIGHT", "SAMPLE_WEIGHT", "GRAD_LOSS"), 0)
    constants |= {
        "VALUE": functor.value,
        "GRAD": functor.grad,
        "POWER": -1 if functor.exponent is None else 2,
        "SIGNED_LABELS": functor.classification and labels.startswith("i"),
        "WEIGHTED": False,
        "ALIGN": plan.align,
        "ROWS": plan.rows,
        "WIDTH": plan.width,
    }
    types = dict.fromkeys(("task_weight", "denominator", "grad_loss"), "*fp32")
    types |= dict.fromkeys(("logits", "gradient"), f"*{logits}")
    types |= {"target": f"*{labels}", "scratch": "*i32", "count": "*i64"}
    return compile_kernel(kernel, types, constants, TARGETS[target])


def assert_no_spills(binary, target, tmp_path, most=128):
    if target == "gfx942":
        spilled = re.findall(r"\.[vs]gpr_spill_count:\s+(\d+)", binary.asm["amdgcn"])
        assert spilled == ["0", "0"]
        return
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage.stdout)
    assert found is not None, usage.stdout
    registers, stack, local = map(int, found.groups())
    assert (stack, local) == (0, 0)
    assert registers <= most


def wide(binary, target, what):
    """Returns how many 16-byte loads or stores a kernel has."""
    if target == "gfx942":
        return len(re.findall(rf"(?:global|buffer)_{what}_dwordx4", binary.asm["amdgcn"]))
    return len(
        re.findall(rf"{dict(load='ld', store='st')[what]}\.global\S*\.v4\.b32", binary.asm["ptx"])
    )


@compiled
@each_pass
@each_target
@pytest.mark.parametrize("loss", pointwise.POINTWISE)
def test_every_loss_compiles_without_spills(loss, target, kernel, tmp_path):
    binary = compile_loss(kernel, loss, "fp32", "i8", target)
    assert_no_spills(binary, target, tmp_path)


@compiled
@each_pass
@each_target
@pytest.mark.parametrize("logits, labels", [("fp32", "i8"), ("bf16", "i8"), ("fp32", "fp32")])
@pytest.mark.parametrize("tasks", [5, 40])
def test_hot_kernels_load_16_bytes(tasks, logits, labels, target, kernel, tmp_path):
    """The loop loads `rows` times 16 bytes of logits a thread, and stores gradients as wide."""
    binary = compile_loss(kernel, BCE, logits, labels, target, tasks)
    assert_no_spills(binary, target, tmp_path)
    blocks = pointwise.plan(tasks, 4 if logits == "fp32" else 2).rows
    assert wide(binary, target, "load") >= (2 * blocks if labels == "fp32" else blocks)
    if kernel is BACKWARD:
        assert wide(binary, target, "store") >= blocks


# Settings of every functor and metric: tensors, elements in a row, name and params.
ROWS = {
    "contrastive": (2, 64, "contrastive_loss", [1.0, 0.0, 0.0]),
    "manhattan": (2, 4096, "contrastive_loss", [1.0, 1.0, 1.0]),
    "cosine": (2, 1000, "contrastive_loss", [1.0, 2.0, 1.0]),
    "triplet": (3, 128, "triplet_margin_loss", [1.0, 2.0, 1e-6, 0.0, 0.0, 0.0, 0.0]),
    "swapped": (3, 512, "triplet_margin_loss", [1.0, 3.0, 1e-6, 1.0, 1.0, 1.0, 1.0]),
    "long": (3, 8200, "triplet_margin_loss", [1.0, 2.0, 1e-6, 1.0, 1.0, 0.0, 0.0]),
    "quadruplet": (4, 768, "hierarchical_triplet_loss", [1.0, 0.3, 0.2]),
    "levels": (7, 256, "hierarchical_triplet_loss", [0.0, *[0.1] * 5]),
}


@compiled
@each_target
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", [rows_kernels.forward_kernel, rows_kernels.backward_kernel])
@pytest.mark.parametrize("tensors, width, loss, params", ROWS.values(), ids=ROWS)
def test_rows_load_16_bytes_once_without_spills(
    tensors, width, loss, params, kernel, dtype, target, tmp_path
):
    """Rows that fit a block are loaded once, 8 elements, or 4 of many tensors, a thread."""
    chosen, plan = settings(loss, params), rows.plan(width, 8, tensors)
    constants = dict.fromkeys(("margin", "scale", "bias", "elements"))
    constants |= rows.constants(chosen, plan, tensors)
    constants |= {} if loss == "contrastive_loss" else {"same": None}
    types = dict.fromkeys(("sample_weight", "grad_loss", "denominator"), "*fp32")
    types |= dict.fromkeys(("rows", "gradients"), (f"*{dtype}",) * tensors)
    types |= {"same": "*i1", "scratch": "*i32", "gaps": ("fp32",) * len(chosen.gaps)}
    types |= {"strides": ("i32",) * tensors, "row_strides": ("i32",) * 4}
    options = rows.options(plan, TARGETS[target].warp_size)
    binary = compile_kernel(kernel, types, constants, TARGETS[target], options)
    assert_no_spills(binary, target, tmp_path, most=192)
    if plan.once and (tensors < 4 or dtype == "fp32"):
        loads = wide(binary, target, "load")
        assert loads == tensors * plan.rows * plan.width // plan.threads // (
            4 if dtype == "fp32" else 8
        )
        if kernel is rows_kernels.backward_kernel:
            assert wide(binary, target, "store") == loads


@compiled
@each_target
@pytest.mark.parametrize("reduction", ["mean", "taskmean"])
def test_finish_compiles_without_spills(reduction, target, tmp_path):
    types = dict.fromkeys(("task_weight", "task_loss", "denominator", "loss"), "*fp32")
    types |= {"scratch": "*i32", "count": "*i64", "parts": "*fp64"}
    for height, width in ((256, 16), (32, 128)):
        constants = {"REDUCTION": reduction, "WEIGHTED": True, "ROWS": height, "WIDTH": width}
        binary = compile_kernel(finish_kernel, types, constants, TARGETS[target])
        assert_no_spills(binary, target, tmp_path, most=255)  # few programs, each alone


@compiled
def test_ops_are_registered_for_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        logits = torch.empty(6, 4, dtype=torch.bfloat16)
        target = torch.empty(6, 4, dtype=torch.int8)
        arguments = (logits, target, None, None, None, None, None)
        for reduction, shape, dtype in (
            ("none", (6, 4), torch.bfloat16),
            ("mean", (), torch.float32),
        ):
            settings = (BCE, [0.0], reduction)
            outputs = pointwise.pointwise_forward(*arguments, *settings)
            assert [tuple(t.shape) for t in outputs] == [shape, (4,), (4,), (4,)]
            assert [t.dtype for t in outputs] == [dtype, torch.float32, torch.int64, torch.float32]
            loss, task_loss, count, denominator = outputs
            grad = pointwise.pointwise_backward(
                loss, task_loss, *arguments, count, denominator, *settings
            )
            assert (grad.shape, grad.dtype) == (logits.shape, logits.dtype)
