"""The built CUDA kernels, read without a GPU: all there, no spills, 16-byte loads."""

import re
import subprocess

import pytest
import torch
from disassembly import find

from mtlfast.ops import native

PATHS = 5  # see Path in csrc/cuda/labels.cuh
WEIGHTED = ("PathE2", "PathE3", "PathE4")  # of many operands
SIDED = 2  # paths of bytes: three losses have kernels of their own there, for labels of 0 and 1
LOGITS = ("float", "BFloat16", "Half")
FAMILIES = ("pointwise_forward", "pointwise_backward")
ROWS = ("rows_forward", "rows_backward")
ROWS_KERNELS = 22 + 17 + 17  # float32 holds more vectors of a row than the 16-bit types


def build(key):
    return native.FACTS.get(key, "")


pytestmark = [
    pytest.mark.skipif(not build("cuda"), reason="built without CUDA: there was no nvcc"),
    pytest.mark.skipif(
        not (find("cuobjdump") and find("nvdisasm")),
        reason="no cuobjdump or no nvdisasm, in no toolkit and no Triton",
    ),
]


def say(name, *arguments, folder=None):
    """Returns what one of the programs says."""
    command = [find(name), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def usage():
    """{(architecture, mangled kernel): its resource usage}."""
    kernels, architecture, name = {}, "", ""
    for line in say("cuobjdump", "-res-usage", native.PATH).splitlines():
        if found := re.search(r"arch = (sm_\d+)", line):
            architecture = found[1]
        elif found := re.search(r"Function (\w+)", line):
            name = found[1]
        elif "REG:" in line:
            kernels[architecture, name] = dict(re.findall(r"(\w+):(\d+)", line))
    return kernels


@pytest.fixture(scope="module")
def listings(usage, tmp_path_factory):
    """[(mangled kernel, SASS)], once for each architecture: cuobjdump would take a second each."""
    folder = tmp_path_factory.mktemp("cubins")
    say("cuobjdump", "-xelf", "all", native.PATH, folder=folder)
    found = []
    for cubin in folder.iterdir():
        _, *kernels = re.split(r"^\.text\.(\w+):$", say("nvdisasm", "-c", cubin), flags=re.M)
        found += zip(kernels[::2], kernels[1::2], strict=True)
    assert sorted(name for name, _ in found) == sorted(name for _, name in usage)
    return found


@pytest.mark.parametrize("op", FAMILIES + ROWS)
def test_ops_are_registered_for_cuda(op):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mtlfast::{op}", "CUDA")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_loss_and_width_has_its_kernels(usage, family):
    losses = native.FACTS["losses"]["pointwise"]
    for architecture in {architecture for architecture, _ in usage}:
        count = sum(a == architecture and family in name for a, name in usage)
        assert count == (len(losses) * PATHS + 3 * SIDED) * len(LOGITS), architecture


def test_no_kernel_spills(usage):
    """Or little, which other warps hide: many operands, the asymmetric loss, held 16-bit rows."""
    held = re.compile(r"rows_backward.*(BFloat16|Half).*HeldILi(2ELi4|3ELi4|4ELi2)E")
    assert usage
    for (_, name), used in usage.items():
        many = "Asymmetric" in name or any(path in name for path in WEIGHTED)
        few = 80 if many or held.search(name) else 0
        assert int(used["STACK"]) + int(used["LOCAL"]) <= few, (name, used)


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_load_16_bytes(usage, listings, family):
    # Asked of the first loss: the others differ in arithmetic alone.
    names = sorted({n for _, n in usage if f"{family}_kernelINS_28BinaryCrossEntropy" in n})
    assert len(names) == len(LOGITS) * (PATHS + SIDED)
    for name, function in listings:
        if name not in names:
            continue
        # Plain paths read 16 bytes of logits; others 8 of 16-bit ones, 16 of float32 operands.
        plain = "PathE0" in name or "PathE1" in name
        assert "LDG.E.128" in function, name
        assert family.endswith("forward") or "STG.E.128" in function or not plain, name
        assert not plain or ("LDL" not in function and "STL" not in function), name


@pytest.mark.parametrize("op", ROWS)
def test_rows_kernels_move_16_bytes(usage, listings, op):
    names = sorted({n for _, n in usage if f"{op}_kernel" in n})
    assert len(names) == ROWS_KERNELS
    for name, function in listings:
        if name not in names:
            continue
        assert "LDG.E.128" in function, name
        assert op.endswith("forward") or "STG.E.128" in function, name
