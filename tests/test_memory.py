"""Memory stays: what a call takes, it gives back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mtlfast.functional as MF
from mtlfast.ops import native

# Calls without end: forward and backward of each family, small enough that a leak shows.
FAMILIES = {
    "pointwise": """
x, y, w = leaf(8, 4), torch.randint(-1, 2, (8, 4), dtype=torch.int8), leaf(4)
call = lambda: MF.sigmoid_focal_loss(x, y, reduction="taskmean", task_weight=w)
""",
    "rows": """
x, levels = leaf(8, 4), [leaf(8, 4) for _ in range(3)]
call = lambda: MF.hierarchical_triplet_loss(x, levels, (0.3, 0.2))
""",
    "in-batch triplets": """
x, y = leaf(8, 4), torch.arange(8) % 3
call = lambda: MF.batch_triplet_loss(x, y, mining="semihard")
""",
    "in-batch pairs": """
x, y = leaf(8, 4), torch.arange(8) % 3
call = lambda: MF.batch_contrastive_loss(x, y, reduction="mean")
""",
}
PROGRAM = '''
import os
import torch
import mtlfast.functional as MF

torch.set_num_threads(1)
leaf = lambda *shape: torch.randn(*shape, requires_grad=True)

def resident():
    """What is the process's own: parts of libraries are loaded when they are first used."""
    with open("/proc/self/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")

def run(calls):
    for _ in range(calls):
        call().backward()
'''
MEASURED = """{setup}
run(2000)
before = resident()
run(3000)
print(resident() - before)
"""


@pytest.fixture(scope="module")
def growth():
    """How many bytes the process grew by, of each family, one after another."""
    program = PROGRAM + "".join(MEASURED.format(setup=setup) for setup in FAMILIES.values())
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(FAMILIES, map(int, done.stdout.split()), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident size from /proc")
@pytest.mark.parametrize("family", FAMILIES)
def test_three_thousand_calls_leave_nothing_behind(family, growth):
    assert growth[family] < 30_000, f"{family} grew by {growth[family]} bytes"


SMAPS, HUGE = Path("/proc/self/smaps"), Path("/sys/kernel/mm/transparent_hugepage")


def advised(address):
    """Returns whether huge pages were asked for where `address` lies."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first:
            low, high = (int(part, 16) for part in first.split("-"))
            inside = low <= address < high
        elif inside and first == "VmFlags:":
            return "hg" in rest.split()
    return False


@pytest.mark.skipif(not (SMAPS.exists() and HUGE.exists()), reason="no system with huge pages")
@pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")
def test_large_results_may_lie_in_huge_pages():
    large = torch.zeros(8192, 1024, requires_grad=True)
    elements = MF.mse_loss(large, torch.ones(8192, 1024), reduction="none", backend="native")
    rows = [torch.ones(8192, 1024, requires_grad=True) for _ in range(2)]
    MF.contrastive_loss(*rows, torch.ones(8192).bool(), backend="native").backward()
    MF.l1_loss(large, torch.ones(8192, 1024), backend="native").backward()
    for result in (elements, large.grad, *(row.grad for row in rows)):
        assert advised(result.data_ptr() + result.nbytes // 2)
