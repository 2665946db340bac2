"""Builds, tests, checks and times mtlfast on this machine's NVIDIA GPU.

    gpu_report.py FOLDER [--stage tests | --stage bench]

Offline, with the Python that runs it, which must have a CUDA build of PyTorch 2.11 or later.
Either stage takes five minutes at most, step by step: a step that fails or runs out of time does
not keep the next from running, and time that one leaves is the next one's. Each writes its file as
it goes, failures to the screen too; summary.md says what ran and why the rest did not. Where
MTLFAST_LIBRARY names a native library built before, that one is taken and none is built. Nothing
outside FOLDER and a temporary folder is changed.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

from gpu_steps import FILES, LIBRARY, ROOT, NotRun, Report, machine, outcome

PURE = 20  # seconds of the build's, kept for one without the native part
SANITIZER_FOUND = 86  # an exit status of our choice, unlike any of Python's or pytest's


def build(report):
    """Builds a copy of the checkout for this GPU alone, into a folder of its own.

    Without its native part where that fails or is there already: Triton is tested all the same.
    """
    report.require("setuptools", "pip", built=False)
    copy = report.work / "source"
    for name in ("csrc", "kernels", "mtlfast"):
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    options = ["-v", "--no-build-isolation", "--no-deps", "--no-index", "--target", report.site]
    command = [sys.executable, "-m", "pip", "install", *options, copy]
    told = f"library {LIBRARY}"
    if not LIBRARY:
        report.end -= PURE
        status, text = report.run("build", command, "build.log", PYTHONPATH="")
        report.end += PURE
        native = next(report.site.glob("mtlfast/lib*.so"), None)
        if status == 0:
            size = f"native part {native.stat().st_size / 1e6:.1f} MB" if native else "pure Python"
            return f"built for compute capability {report.facts.get('capability', 'none')}, {size}"
        told = outcome(status, text)
        shutil.rmtree(report.site, ignore_errors=True)
    environment = {"PYTHONPATH": "", "MTLFAST_NATIVE": "0", "MTLFAST_LIBRARY": ""}
    status, text = report.run("build", command, "build.log", **environment)
    if status != 0:
        shutil.rmtree(report.site, ignore_errors=True)
        told = outcome(status, text)
    return told


def require_native(report):
    """Raises NotRun without a native part, or without all that it takes to use it."""
    report.require()
    if not LIBRARY and not any(report.site.glob("mtlfast/lib*.so")):
        raise NotRun("there is no native part")


def suite(report, step, *selection):
    """Runs a part of the test suite, which tells failures at once: see failures.py."""
    report.require("pytest")
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-rs", "-p", "failures", *selection]
    if importlib.util.find_spec("xdist"):
        command += ["-n", min(14, os.cpu_count()), "--dist", "worksteal"]
    return outcome(*report.run(step, command, "tests.log"))


def native(report):
    """Runs the tests that need a GPU, but for Triton's."""
    require_native(report)
    marked = "not gpu" if report.on_cpu else "gpu"
    selected = "native-cpu" if report.on_cpu else "not triton-cuda"
    return suite(report, "native", "-m", marked, "-k", selected)


def triton(report):
    """Runs a third of the tests of the Triton backend on the GPU: each compiles for itself."""
    if "gpu" not in report.facts:
        raise NotRun("no CUDA device")
    report.require("triton")
    return suite(report, "triton", "-m", "gpu", "-k", "triton-cuda", "--one-in", "3")


def cpu(report):
    """Runs as many of the other tests as there is time for."""
    return suite(report, "cpu", "-m", "not gpu and not slow", "-k", "not native-cpu")


def sanitizer(report, tool):
    """Runs the small cases under one tool of compute-sanitizer."""
    if "gpu" not in report.facts:
        raise NotRun("no CUDA device")
    report.require(program="compute-sanitizer")
    require_native(report)
    options = ["--tool", tool, "--error-exitcode", SANITIZER_FOUND]
    command = ["compute-sanitizer", *options, sys.executable, __file__, "--small-cases"]
    # Without the caching allocator each tensor is an allocation of its own, with guarded edges.
    status, text = report.run(tool, command, "tests.log", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    if "Device not supported" in text:
        raise NotRun("compute-sanitizer does not support this device")
    verdict = [line for line in text.splitlines() if "SUMMARY" in line]
    return outcome(status, "\n".join(verdict) or text)


def memcheck(report):
    """Looks for reads and writes out of bounds."""
    return sanitizer(report, "memcheck")


def racecheck(report):
    """Looks for races in shared memory."""
    return sanitizer(report, "racecheck")


def benches(report):
    """Times the losses, serially."""
    report.require()
    command = [sys.executable, "-m", "mtlfast", "bench", "--output", report.out.resolve()]
    command += ["--limit", max(int(report.end - time.monotonic()) - 30, 10)]
    if importlib.util.find_spec("matplotlib") is None:
        command.append("--no-picture")
    return outcome(*report.run("benches", command, "bench.log"))


# The build is part of both: nothing of it stays.
STAGES = {
    "tests": (build, native, triton, memcheck, racecheck, cpu),
    "bench": (build, benches),
}


def small_cases():
    """Calls every pointwise loss natively, forward and backward, in shapes with ragged edges."""
    import torch

    import mtlfast.functional as MF

    losses = [getattr(MF, name) for name, loss in MF.LOSSES.items() if loss.family == "pointwise"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = [(0, 4), (1, 1), (3, 5), (257, 12), (33, 40), (64, 1000)]
    for loss in losses:
        for shape in shapes:
            for dtype in (torch.float32, torch.bfloat16):
                x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
                labels = torch.randint(-1, 2, shape, device=device, dtype=torch.int8)
                holes = labels.float().where(labels >= 0, torch.nan)
                weight = torch.rand(shape[1], device=device)
                for target in (labels, holes):
                    for reduction in ("none", "taskmean"):
                        options = {"task_weight": weight, "backend": "native"}
                        loss(x, target, reduction=reduction, **options).float().sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{len(losses)} losses in {len(shapes)} shapes ran on {device}")


def main():
    """Runs the stages, or what a step asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", default="runs/gpu-report", help="folder for the report")
    parser.add_argument("--stage", choices=STAGES, help="one of the two, instead of both")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="without a GPU, run build, tests and benches on the CPU, to try the report itself",
    )
    parser.add_argument("--small-cases", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.small_cases:
        return small_cases()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    stages = [arguments.stage] if arguments.stage else list(STAGES)
    for name in FILES:
        if len(stages) > 1 or name == "build.log" or name.startswith(stages[0]):
            (out / name).unlink(missing_ok=True)
    facts = machine()
    for stage in stages:
        report = Report(out, facts, arguments.cpu)
        try:
            for step in STAGES[stage]:
                report.step(step)
        finally:
            shutil.rmtree(report.work, ignore_errors=True)
    print(f"The report is in {out}: summary.md first.")


if __name__ == "__main__":
    main()
