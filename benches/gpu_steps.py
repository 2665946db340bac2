"""How the steps of gpu_report.py are run: each in a process of its own, in time, and told."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Seconds; what is left over goes to the next, and the last of the tests has no more than that.
LIMITS = {"build": 70, "native": 70, "triton": 90, "memcheck": 30, "racecheck": 30, "cpu": 0}
LIMITS |= {"benches": 210}
LAST_WORDS = 8  # seconds of a limit, for what an interrupted pytest has to tell
FILES = ("report.json", "summary.md", "build.log", "tests.log")
FILES += ("bench.log", "bench.json", "bench.md", "bench.png")
LIBRARY = os.environ.get("MTLFAST_LIBRARY")


class NotRun(Exception):
    """A step that this machine has not the means for; the message says which."""


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
        self.left = 0.0  # seconds that steps so far did not need
        self.rows = {}
        with contextlib.suppress(OSError, ValueError):  # of the other stage, on the same machine
            before = json.loads((out / "report.json").read_text())
            if before["facts"].get("gpu") == facts.get("gpu"):
                self.rows = before["steps"]
        self.work = Path(tempfile.mkdtemp(prefix="mtlfast-gpu-report-"))
        self.site = self.work / "site"
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"},
            "PYTHONPATH": f"{self.site}{os.pathsep}{ROOT / 'benches'}",
            "PYTHONSAFEPATH": "1",  # the checkout's own mtlfast is not the one that was built
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TRITON_CACHE_DIR": str(self.work / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
        }
        self.environment["PYTEST_ADDOPTS"] = "-p no:cacheprovider"
        if LIBRARY:
            self.environment["MTLFAST_LIBRARY"] = os.path.abspath(LIBRARY)
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

    def run(self, step, command, log, **extra):
        """Returns (exit status, output); the status is None where the time limit struck."""
        limit = self.end - time.monotonic() - LAST_WORDS
        if limit < 5:
            raise NotRun("no time was left")
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env={**self.environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            # A shell's background jobs ignore it, and what they start does too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        lines = []

        def copy():
            with process.stdout as output, open(self.out / log, "a") as file:
                file.write(f"$ {' '.join(map(str, command))}\n")
                for line in output:
                    lines.append(line)
                    file.write(line)
                    file.flush()
                    if line.startswith("FAILED "):
                        print(f"  {step}: {line}", end="", flush=True)

        reader = threading.Thread(target=copy, daemon=True)
        reader.start()
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LAST_WORDS)
        finally:
            # The whole group: pytest's workers and compilers outlive their parent otherwise.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join(5)  # for ever, if a child left the group and holds the pipe
        return status, "".join(lines)

    def step(self, function):
        """Runs one step and writes its line into summary.md."""
        started = time.monotonic()
        name = function.__name__
        self.end = started + LIMITS[name] + self.left
        try:
            result = function(self)
        except NotRun as reason:
            result = f"not run: {reason}"
        except Exception as error:
            result = f"failed: {type(error).__name__}: {error}"
        self.left = max(self.end - time.monotonic(), 0.0)
        self.rows[name] = [result, f"{time.monotonic() - started:.0f} s"]
        print(f"{name}: {result}", flush=True)
        self.write_summary()

    def write_summary(self):
        """Writes summary.md from what is there so far."""
        lines = ["# mtlfast on " + self.facts.get("gpu", "a machine without a CUDA device"), ""]
        lines += [f"* {key}: {value}" for key, value in self.facts.items()]
        lines += ["", "| step | result | time |", "|---|---|---|"]
        lines += ["| {} | {} | {} |".format(name, *row) for name, row in self.rows.items()]
        bench = self.out / "bench.md"
        if bench.exists():
            lines += ["", "## Times", "", *bench.read_text().splitlines()[2:]]
        (self.out / "summary.md").write_text("\n".join(lines) + "\n")
        found = {"facts": self.facts, "steps": self.rows}
        (self.out / "report.json").write_text(json.dumps(found, indent=2) + "\n")


def outcome(status, text):
    """Returns a step's result: its last line that says something, and how it ended."""
    lines = [line.strip(" =\t") for line in text.splitlines() if line.strip(" =\t")]
    last = lines[-1].replace("|", "/") if lines else "no output"
    if status is None:
        return f"stopped by its time limit; last line: {last}"
    return last if status == 0 else f"failed with status {status}: {last}"
