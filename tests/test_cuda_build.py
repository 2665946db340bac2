"""The built CUDA kernels, read without a GPU: all there, no spills, 16-byte loads."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from mtlfast.ops import native

PATHS = 5  # see Path in csrc/cuda/vector.cuh
WEIGHTED = ("PathE2", "PathE3")  # of many operands
WHOLE = 2 * 2  # two losses have kernels of their own for bytes and whole exponents
LOGITS = ("float", "BFloat16", "Half")
FAMILIES = ("pointwise_forward", "pointwise_backward")
ROWS = ("rows_forward", "rows_backward")
ROWS_KERNELS = 22 + 17 + 17  # float32 holds more vectors of a row than the 16-bit types


def disassembler():
    """Returns cuobjdump: the toolkit's, or the one that Triton carries."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if found or not triton or not triton.origin:
        return found
    carried = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(carried) if carried.exists() else None


def build(key):
    return native._C.build_info()[key] if native._C else ""


pytestmark = [
    pytest.mark.skipif(not build("cuda"), reason="built without CUDA: there was no nvcc"),
    pytest.mark.skipif(not disassembler(), reason="no cuobjdump, in no toolkit and no Triton"),
]


def dump(*options):
    """Returns what cuobjdump says about the extension."""
    command = [disassembler(), *options, native._C.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def usage():
    """{(architecture, mangled kernel): its resource usage}."""
    kernels, architecture, name = {}, "", ""
    for line in dump("-res-usage").splitlines():
        if found := re.search(r"arch = (sm_\d+)", line):
            architecture = found[1]
        elif found := re.search(r"Function (\w+)", line):
            name = found[1]
        elif "REG:" in line:
            kernels[architecture, name] = dict(re.findall(r"(\w+):(\d+)", line))
    return kernels


def listings(usage, names):
    """Yields (name, SASS) of each kernel named, once for each architecture."""
    listing = dump("-sass", "-fun", ",".join(names))
    functions = re.split(r"Function : (?=\w)", listing)[1:]
    assert len(functions) == len([1 for _, n in usage if n in names])
    for function in functions:
        yield function.split(maxsplit=1)[0], function


@pytest.mark.parametrize("op", FAMILIES + ROWS)
def test_ops_are_registered_for_cuda(op):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mtlfast::{op}", "CUDA")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_loss_and_width_has_its_kernels(usage, family):
    losses = native._C.losses()["pointwise"]
    for architecture in {architecture for architecture, _ in usage}:
        count = sum(a == architecture and family in name for a, name in usage)
        assert count == (len(losses) * PATHS + WHOLE) * len(LOGITS), architecture


def test_no_kernel_spills(usage):
    """Or little, where as many warps again hide it: of many operands, or wide losses of 16 bits."""
    assert usage
    for (_, name), used in usage.items():
        wide = ("Focal" in name or "Asymmetric" in name) and ("BFloat16" in name or "Half" in name)
        few = 80 if wide or any(path in name for path in WEIGHTED) else 0
        assert int(used["STACK"]) + int(used["LOCAL"]) <= few, (name, used)


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_load_16_bytes(usage, family):
    # Asked of the first loss: the others differ in arithmetic alone.
    names = sorted({n for _, n in usage if f"{family}_kernelINS_28BinaryCrossEntropy" in n})
    assert len(names) == len(LOGITS) * PATHS
    for name, function in listings(usage, names):
        # Plain paths read 16 bytes of logits; others 8 of 16-bit ones, 16 of float32 operands.
        plain = "PathE0" in name or "PathE1" in name
        assert "LDG.E.128" in function, name
        assert family.endswith("forward") or "STG.E.128" in function or not plain, name
        assert not plain or ("LDL" not in function and "STL" not in function), name


@pytest.mark.parametrize("op", ROWS)
def test_rows_kernels_move_16_bytes(usage, op):
    names = sorted({n for _, n in usage if f"{op}_kernel" in n})
    assert len(names) == ROWS_KERNELS
    for name, function in listings(usage, names):
        assert "LDG.E.128" in function, name
        assert op.endswith("forward") or "STG.E.128" in function, name
