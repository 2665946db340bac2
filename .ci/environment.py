"""Makes the virtual environment of the Makefile: environment.py FOLDER [PIP ARGUMENT ...].

A torch that this Python already has is kept, with a triton to match; otherwise torch and all the
rest come as constraints.txt pins them. Whatever is missing is told in one sentence.
"""

import os
import re
import runpy
import subprocess
import sys
import sysconfig

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXTRAS = ("train", "triton", "tensorboard", "test", "bench", "lint", "docs", "wheel")
BUILD = ["setuptools>=77", "wheel", "ninja"]
# Programs rather than modules: these must stand in the environment's own bin folder.
PROGRAMS = ["clang-format", "ninja", "ruff"]
# CUDA builds of torch name their triton; CPU builds don't.
TRITON = {"2.11": "3.6.0", "2.12": "3.7.0", "2.13": "3.7.1", "2.14": "3.8.0"}


def check_python():
    """Ends with one sentence where this Python can't make the environment."""
    if sys.version_info < (3, 11):  # noqa: UP036 -- this file is what says so
        sys.exit(
            f"mtlfast needs Python 3.11 or later and this is {sys.version.split()[0]}: name "
            "another one with `make PYTHON=python3.12 ...`."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            f"{sys.executable} lacks the module venv: install it (Debian, Ubuntu: apt install "
            "python3-venv)."
        )


def build():
    """Returns what setup.py knows of the build, by name."""
    return runpy.run_path(os.path.join(ROOT, "setup.py"))


def check_compiler():
    """Ends with one sentence where a native build can't work."""
    reason = build()["reason_without_native"]()
    if reason and os.environ.get("MTLFAST_NATIVE") != "0":
        sys.exit(
            f"{reason[0].upper()}{reason[1:]}: install one (Debian, Ubuntu: apt install g++; "
            "macOS: xcode-select --install), name one with CXX, or leave the native part out with "
            "`make MTLFAST_NATIVE=0 ...`."
        )


def installed():
    """Returns {name: version} of what this Python already has, {} where its torch is too old."""
    from importlib.metadata import distributions

    have = {normal(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    for program in PROGRAMS:
        have.pop(program, None)
    release = tuple(int(n) for n in re.findall(r"\d+", have.get("torch", "0.0"))[:2])
    return have if release >= build()["OLDEST_TORCH"] else {}


def normal(name):
    """Returns a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(have):
    """Returns the lines of constraints.txt, less those about what is already there."""
    with open(os.path.join(ROOT, "constraints.txt")) as file:
        pins = [line.strip() for line in file if "==" in line]
    if not have:
        return pins
    kept = [pin for pin in pins if normal(pin.split("==")[0]) not in {*have, "torch", "triton"}]
    kept.append("torch==" + have["torch"])
    if "triton" in have:
        kept.append("triton==" + have["triton"])
    else:
        minor = ".".join(have["torch"].split(".")[:2])
        kept += ["triton==" + TRITON[minor]] if minor in TRITON else []
    return kept


def requirements(have):
    """Returns what pyproject.toml asks for, the extras included; a triton that is there is kept."""
    import tomllib

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [*project["dependencies"], *BUILD]
    for extra in EXTRAS:
        if extra == "triton" and "triton" in have:
            continue
        wanted += project["optional-dependencies"][extra]
    return sorted(set(wanted))


def make(folder, pip_arguments):
    """Creates the environment and installs everything but mtlfast itself."""
    have = installed()
    options = ["--system-site-packages"] if have else []
    subprocess.check_call([sys.executable, "-m", "venv", *options, folder])
    python = os.path.join(folder, "bin", "python")
    if have and sys.prefix != sys.base_prefix:
        # This Python is itself a virtual environment, which the option passes over.
        where = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        with open(os.path.join(where.strip(), "outer.pth"), "w") as file:
            file.write(sysconfig.get_path("purelib") + "\n")
    pinned = os.path.join(folder, "constraints.txt")
    with open(pinned, "w") as file:
        file.write("\n".join(constraints(have)) + "\n")
    if have:
        print(f"Keeping torch {have['torch']} of {sys.executable}.", flush=True)
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    pip += [*pip_arguments, "-c", pinned]
    if have:
        subprocess.check_call([*pip, "--ignore-installed", "--no-deps", *PROGRAMS])
    subprocess.check_call([*pip, *requirements(have)])


if __name__ == "__main__":
    check_python()
    check_compiler()
    try:
        make(sys.argv[1], sys.argv[2:])
    except subprocess.CalledProcessError:
        sys.exit(f"The environment {sys.argv[1]} could not be made: see above.")
