"""Checks that csrc compiles with the headers of the oldest PyTorch that is supported.

oldest_headers.py [PIP ARGUMENT ...]: the wheel is fetched into a temporary folder, and only read:
compilers look at the syntax alone, with the flags that setup.py builds with.
"""

import os
import runpy
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools

ROOT = Path(__file__).resolve().parents[1]
HEADERS = "torch/include/"


def told_to_setup():
    """Returns what setup.py tells setuptools, and its globals."""
    told = {}
    setuptools.setup = told.update
    os.chdir(ROOT)
    return told, runpy.run_path("setup.py", run_name="__main__")


def fetch_headers(version, folder, pip_arguments):
    """Unpacks the headers of that torch; returns why it can't, or None."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q"]
    command += ["--no-deps", "--dest", folder, f"torch=={version}", *pip_arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["pip failed"]
        return f"torch {version} could not be fetched: {said[-1]}"
    wheel = next(Path(folder).glob("torch-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [n for n in archive.namelist() if n.startswith(HEADERS)])
    wheel.unlink()
    return None


def compilers(extension, toolkit, include):
    """Yields a command for each source."""
    folders = [f"-I{include}/torch/csrc/api/include", f"-I{include}"]
    flags = extension.extra_compile_args
    for source in extension.sources:
        if source.endswith(".cpp"):
            yield [os.environ.get("CXX", "c++"), "-fsyntax-only", *flags["cxx"], *folders, source]
        elif source.endswith(("/pointwise.cu", "/rows.cu")):  # the others only hold kernels
            nvcc = [f"{toolkit[0]}/bin/nvcc", "--cuda", "-arch=sm_90", "-o", os.devnull]
            yield [*nvcc, *flags["nvcc"], *folders, source]


def main(pip_arguments):
    """Returns the exit status."""
    told, facts = told_to_setup()
    version = ".".join(map(str, facts["OLDEST_TORCH"])) + ".0"
    with tempfile.TemporaryDirectory() as folder:
        reason = None if "ext_modules" in told else "no native part is built here"
        reason = reason or fetch_headers(version, folder, pip_arguments)
        if reason:
            print(f"The check against the oldest headers is skipped: {reason}.")
            return 0
        extension = told["ext_modules"][0]
        commands = list(compilers(extension, facts["cuda_toolkit"](), f"{folder}/{HEADERS}"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = list(pool.map(lambda c: subprocess.run(c, capture_output=True), commands))
    for command, result in zip(commands, done, strict=True):
        if result.returncode:
            print(f"{command[-1]}:\n{result.stderr.decode(errors='replace')}", file=sys.stderr)
    failed = [c[-1] for c, result in zip(commands, done, strict=True) if result.returncode]
    verdict = f"fail: {', '.join(failed)}" if failed else "compile"
    print(f"{len(commands)} sources of csrc with the headers of torch {version}: {verdict}.")
    return len(failed) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
