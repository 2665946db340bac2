"""The machine code in a file, as cuobjdump prints it. No GPU is needed."""

import os
import runpy
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import sass

ROOT = Path(__file__).resolve().parents[1]


class Unusable(Exception):
    """Why there is no code to look at; the message says what to do."""


@cache
def find(program):
    """Returns the path of one of NVIDIA's programs: of the CUDA toolkit, or else Triton's; or None.

    The toolkit is the one that setup.py builds with.
    """
    toolkit = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["cuda_toolkit"]()
    places = [f"{toolkit[0]}/bin"] if toolkit else []
    places.append(os.environ["PATH"])
    triton = find_spec("triton")
    if triton and triton.submodule_search_locations:
        places += [f"{at}/backends/nvidia/bin" for at in triton.submodule_search_locations]
    return shutil.which(program, path=os.pathsep.join(places))


def printed(*options):
    """Returns what cuobjdump prints."""
    tool = find("cuobjdump")
    if tool is None:
        raise Unusable(
            "cuobjdump was wanted, and neither a CUDA toolkit nor triton, which have it, is here: "
            "put the toolkit's bin on the PATH, or pip install triton."
        )
    done = subprocess.run([tool, *options], capture_output=True, text=True)
    if done.returncode:
        raise Unusable(
            f"a file with CUDA code was wanted, and cuobjdump says: {done.stderr.strip()}: name "
            "an object file or a library with --files."
        )
    return done.stdout


def demangled(names):
    """Returns C++ names as they are written."""
    if not shutil.which("c++filt"):
        raise Unusable("c++filt was wanted, of binutils, and is not here: install a C++ compiler.")
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True)
    return done.stdout.splitlines()


def listed(file, arch=None):
    """Returns (architecture, mangled name, name, usage) of each kernel in a file."""
    chosen = ["-arch", arch] if arch else []
    found = list(sass.resources(printed(*chosen, "--dump-resource-usage", file)))
    names = demangled([name for _, name, _ in found])
    return [(*one[:2], name, one[2]) for one, name in zip(found, names, strict=True)]


def texts(file, arch=None, names=()):
    """Returns the code of kernels in a file by architecture and mangled name: all, or some."""
    chosen = ["-arch", arch] if arch else []
    if 0 < len(names) <= 16:  # each takes a second; all of the library's 320 take 20
        chosen += ["-fun", ",".join(names)]
    code = sass.functions(printed(*chosen, "--dump-sass", file))
    return {(built_for, name): text for built_for, name, text in code}
