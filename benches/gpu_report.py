"""Builds, tests, checks and times mtlfast on this machine's NVIDIA GPU: gpu_report.py FOLDER.

Offline, with the Python that runs it, which must have a CUDA build of PyTorch 2.11 or later. Every
stage has a time limit and writes its file as it goes; the limits add up to less than nine minutes.
What cannot run says why in summary.md. Nothing outside FOLDER and a temporary folder is changed.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"build": 120, "tests": 170, "memcheck": 50, "racecheck": 50, "benches": 130}  # seconds
SANITIZER_FOUND = 86  # an exit status of our choice, unlike any of Python's or pytest's


class NotRun(Exception):
    """A stage that this machine has not the means for; the message says which."""


def machine():
    """Returns the facts that the figures depend on."""
    facts = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "cpu_count": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    for package in ("torch", "triton", "numpy", "pytest", "pytest-xdist"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    for program, option in (("nvcc", "--version"), ("compute-sanitizer", "--version")):
        if shutil.which(program):
            told = subprocess.run([program, option], capture_output=True, text=True).stdout
            facts[program] = (told.strip().splitlines() or [""])[-1]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm"]
        told = subprocess.run([*query, "--format=csv,noheader"], capture_output=True, text=True)
        facts["nvidia-smi"] = told.stdout.strip()
    if "torch" in facts:
        import torch

        facts["torch_cuda"] = torch.version.cuda
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
            facts["capability"] = "{}.{}".format(*torch.cuda.get_device_capability())
    return facts


class Report:
    """The stages, the folder they write to and the environment they share."""

    def __init__(self, out, facts, on_cpu):
        self.out, self.facts, self.on_cpu = out, facts, on_cpu
        self.work = Path(tempfile.mkdtemp(prefix="mtlfast-gpu-report-"))
        self.site = self.work / "site"
        self.rows = []
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"},
            "PYTHONPATH": str(self.site),
            "PYTHONSAFEPATH": "1",  # the checkout's own mtlfast is not the one that was built
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TRITON_CACHE_DIR": str(self.work / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
        }
        self.environment["PYTEST_ADDOPTS"] = "-p no:cacheprovider"
        if "capability" in facts:
            self.environment["TORCH_CUDA_ARCH_LIST"] = facts["capability"]

    def require(self, *packages, program=None, built=True):
        """Raises NotRun for the first thing that is missing."""
        if "torch" not in self.facts:
            raise NotRun(f"no PyTorch in {sys.executable}")
        if "gpu" not in self.facts and not self.on_cpu:
            raise NotRun("no CUDA device")
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise NotRun(f"no package {package}")
        if program and not shutil.which(program):
            raise NotRun(f"no {program} on the PATH")
        if built and not self.site.exists():
            raise NotRun("the build did not succeed")

    def run(self, stage, command, log, **extra):
        """Returns (exit status, output); the status is None where the time limit struck."""
        with open(self.out / log, "a") as file:
            file.write(f"$ {' '.join(map(str, command))}\n")
            file.flush()
            start = file.tell()
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                env={**self.environment, **extra},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(LIMITS[stage])
            except subprocess.TimeoutExpired:
                status = None
            finally:
                # The whole group: pytest's workers and compilers outlive their parent otherwise.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        with open(self.out / log, errors="replace") as file:
            file.seek(start)
            return status, file.read()

    def stage(self, function):
        """Runs one stage and writes its line into summary.md."""
        started = time.monotonic()
        name = function.__name__
        try:
            result = function(self)
        except NotRun as reason:
            result = f"not run: {reason}"
        except Exception as error:
            result = f"failed: {type(error).__name__}: {error}"
        self.rows.append((name, result, f"{time.monotonic() - started:.0f} s"))
        print(f"{name}: {result}", flush=True)
        self.write_summary()

    def write_summary(self):
        """Writes summary.md from what is there so far."""
        lines = ["# mtlfast on " + self.facts.get("gpu", "a machine without a CUDA device"), ""]
        lines += [f"* {key}: {value}" for key, value in self.facts.items()]
        lines += ["", "| stage | result | time |", "|---|---|---|"]
        lines += ["| {} | {} | {} |".format(*row) for row in self.rows]
        bench = self.out / "bench.md"
        if bench.exists():
            lines += ["", "## Times", "", *bench.read_text().splitlines()[2:]]
        (self.out / "summary.md").write_text("\n".join(lines) + "\n")


def outcome(status, text):
    """Returns a stage's result: its last line that says something, and how it ended."""
    lines = [line.strip(" =\t") for line in text.splitlines() if line.strip(" =\t")]
    last = lines[-1].replace("|", "/") if lines else "no output"
    if status is None:
        return f"stopped by its time limit; last line: {last}"
    return last if status == 0 else f"failed with status {status}: {last}"


def build(report):
    """Builds a copy of the checkout for this GPU alone, into a folder of its own."""
    report.require("setuptools", "pip", built=False)
    copy = report.work / "source"
    for name in ("csrc", "kernels", "mtlfast"):
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    options = ["-v", "--no-build-isolation", "--no-deps", "--no-index", "--target", report.site]
    command = [sys.executable, "-m", "pip", "install", *options, copy]
    status, text = report.run("build", command, "build.log", PYTHONPATH="")
    if status != 0:
        shutil.rmtree(report.site, ignore_errors=True)
        return outcome(status, text)
    native = next(report.site.glob("mtlfast/_C*"), None)
    size = f", native part {native.stat().st_size / 1e6:.1f} MB" if native else ", pure Python"
    return f"built for compute capability {report.facts.get('capability', 'none')}{size}"


def tests(report):
    """Runs the test suite: native CUDA and compiled Triton beside the CPU."""
    report.require("pytest")
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-rs"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", min(8, os.cpu_count())]
    return outcome(*report.run("tests", command, "tests.log"))


def sanitizer(report, tool):
    """Runs the small cases under one tool of compute-sanitizer."""
    if "gpu" not in report.facts:
        raise NotRun("no CUDA device")
    report.require(program="compute-sanitizer")
    options = ["--tool", tool, "--error-exitcode", SANITIZER_FOUND]
    command = ["compute-sanitizer", *options, sys.executable, __file__, "--small-cases"]
    # Without the caching allocator each tensor is an allocation of its own, with guarded edges.
    status, text = report.run(tool, command, "sanitizer.log", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
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
    if importlib.util.find_spec("matplotlib") is None:
        command.append("--no-picture")
    return outcome(*report.run("benches", command, "bench.log"))


def small_cases():
    """Calls every pointwise loss natively, forward and backward, in shapes with ragged edges."""
    import torch

    import mtlfast.functional as MF

    losses = [
        function
        for name, function in vars(MF).items()
        if inspect.isfunction(function) and "return_tasks" in inspect.signature(function).parameters
    ]
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
    """Runs all stages, or what a stage asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", default="runs/gpu-report", help="folder for the report")
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
    for name in ("build.log", "tests.log", "sanitizer.log", "bench.log", "bench.md"):
        (out / name).unlink(missing_ok=True)
    facts = machine()
    (out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    report = Report(out, facts, arguments.cpu)
    try:
        for stage in (build, tests, memcheck, racecheck, benches):
            report.stage(stage)
    finally:
        shutil.rmtree(report.work, ignore_errors=True)
    print(f"The report is in {out}: summary.md first.")


if __name__ == "__main__":
    main()
