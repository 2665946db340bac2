"""Builds mtlfast, with its native library wherever a C++ compiler is at hand.

Everything is read off the machine: which torch this is, whether there are a compiler and nvcc.
PyTorch's own variables choose CUDA architectures and parallel jobs (TORCH_CUDA_ARCH_LIST,
MAX_JOBS), CXX the compiler, CXXFLAGS more of its options. MTLFAST_NATIVE=0 leaves the native part
out, MTLFAST_CUDA=0 its CUDA part.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PROJECT = (ROOT / "pyproject.toml").read_text()
OLDEST_TORCH = tuple(map(int, re.search(r'"torch>=(\d+)\.(\d+)"', PROJECT).groups()))


def reason_without_native():
    """Returns why the native part can't be built here, or None when it can."""
    if os.environ.get("MTLFAST_NATIVE") == "0":
        return "MTLFAST_NATIVE=0"
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    # Run it: without its command line tools, macOS has a c++ that does nothing but complain.
    if not shutil.which(compiler[0]) or subprocess.call(
        [*compiler, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
        return f"no C++ compiler ({compiler[0]}) was found"
    return None


def import_torch():
    """Returns torch, or ends with one sentence that says what to do."""
    oldest = ".".join(map(str, OLDEST_TORCH))
    remedy = f"pip install 'torch>={oldest}' setuptools, then pip install --no-build-isolation ."
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        sys.exit(
            f"mtlfast is built against the PyTorch it will run with, and none is here: {remedy}"
        )
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < OLDEST_TORCH:
        sys.exit(
            f"mtlfast needs PyTorch {oldest} or later, and this is {torch.__version__}: {remedy}"
        )
    return torch


def cuda_toolkit():
    """Returns (folder, version) of nvcc's CUDA toolkit; None without it, or by MTLFAST_CUDA=0."""
    if os.environ.get("MTLFAST_CUDA") == "0":
        return None
    homes = filter(None, map(os.environ.get, ("CUDA_HOME", "CUDA_PATH")))
    places = [*(f"{home}/bin" for home in homes), os.environ["PATH"], "/usr/local/cuda/bin"]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(places))
    if nvcc is None:
        return None

    def ask(pattern, *arguments):
        told = subprocess.run([nvcc, *arguments], capture_output=True, text=True)
        return re.search(pattern, told.stdout + told.stderr, re.MULTILINE)

    # nvcc on the PATH may be a wrapper script, so the compiler itself says where it lives.
    top = ask(r"^#\$ TOP=(.*)$", "--dryrun", "-E", "-x", "cu", os.devnull)
    version = ask(r"release (\d+\.\d+)", "--version")
    if not top or not version:
        sys.exit(f"{nvcc} does not run: repair it, or take it off the PATH.")
    return os.path.realpath(top[1]), version[1]


def native_extensions(torch):
    """Returns the library, its CUDA part included when nvcc is there, and mtlfast._numerics."""
    from setuptools import Extension
    from torch.utils import cpp_extension

    class BuildExtension(cpp_extension.BuildExtension):
        def get_ext_filename(self, name):
            # No Python module, so that one file serves every version of Python.
            return re.sub(r"libmtlfast\..*", "libmtlfast.so", super().get_ext_filename(name))

    of_numerics = glob("csrc/numerics*.cpp")
    sources = [*set(glob("csrc/*.cpp")).difference(of_numerics), *glob("csrc/cpu/*.cpp")]
    target = "".join(f"{number:02x}" for number in OLDEST_TORCH)
    common = ["-O3", "-std=c++20", f"-DTORCH_TARGET_VERSION=0x{target}000000000000"]
    # Error messages hold __FILE__: cut it off where the headers begin.
    host = [f"-ffile-prefix-map={folder}/=" for folder in (ROOT, *cpp_extension.include_paths())]
    # For our own #include "..." alone: with -I, csrc/math.h would hide the system's <math.h>.
    host += ["-fvisibility=hidden", "-g0", f"-iquote{ROOT}/csrc"]
    cxx = [*common, *host, "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
    # g++ would give each outcome of a selection a path of its own, and then vectorise the masks of
    # them all: a third of the instructions of the asymmetric loss. Clang knows no such options.
    paths = ["-fno-thread-jumps", "-fno-tree-pre"]
    probe = [*shlex.split(os.environ.get("CXX", "c++")), *paths, "-Werror", "-E", "-x", "c++"]
    if subprocess.run([*probe, os.devnull], capture_output=True).returncode == 0:
        cxx += paths
    options = {"libraries": [], "library_dirs": [], "extra_link_args": []}

    toolkit = None if torch.version.hip else cuda_toolkit()
    nvcc = []
    if toolkit:
        # CPU torch knows no CUDA although nvcc is there, and since the CUDA runtime is linked in,
        # it need not be the version that torch was built with.
        home, torch.version.cuda = toolkit
        cpp_extension.CUDA_HOME = home
        if not torch.cuda.is_available():
            chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
            os.environ["TORCH_CUDA_ARCH_LIST"] = chosen or "8.0;9.0+PTX"
        sources += glob("csrc/cuda/*.cu")
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or "native"
        cxx.append("-DMTLFAST_WITH_CUDA")
        cxx.append(f'-DMTLFAST_CUDA_VERSION="{toolkit[1]}"')
        cxx.append(f'-DMTLFAST_CUDA_ARCHITECTURES="{architectures}"')
        nvcc = [*common, "-DMTLFAST_WITH_CUDA", "--threads=2"]
        if tuple(int(n) for n in toolkit[1].split(".")) >= (12, 8):
            nvcc.append("--compress-mode=size")  # a sixth of nvcc's default
        nvcc += [f"-Xcompiler={flag}" for flag in host]
        folders = (f"{home}/{lib}" for lib in ("lib64", "lib", "targets/x86_64-linux/lib"))
        options["library_dirs"] += [f for f in folders if os.path.exists(f"{f}/libcudart_static.a")]
        options["libraries"] += ["cudart_static", "rt", "dl", "pthread"]
        options["extra_link_args"] += ["-Wl,--exclude-libs,ALL"]
    asked = shlex.split(os.environ.get("CXXFLAGS", ""))
    cxx += asked
    if sys.platform == "linux" and not any(flag.startswith("-g") for flag in asked):
        options["extra_link_args"] += ["-s"]  # no symbols that only a debugger reads

    library = cpp_extension.CppExtension(
        "mtlfast.libmtlfast",
        sorted(sources),
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        depends=[path for path in glob("csrc/**/*", recursive=True) if path.endswith(("h", "cuh"))],
        py_limited_api=True,  # else it is linked to PyTorch's part for one Python
        **options,
    )
    extensions = [library]
    if {"--inplace", "editable_wheel"} & set(sys.argv):
        # For tests and benches alone: wheels leave it out.
        if Path(sysconfig.get_path("include"), "Python.h").exists():
            extensions.append(
                Extension(
                    "mtlfast._numerics",
                    sorted(of_numerics),
                    include_dirs=cpp_extension.include_paths(),  # pybind11 among them
                    extra_compile_args=cxx,
                    extra_link_args=options["extra_link_args"],
                    depends=library.depends,
                )
            )
        else:
            print(
                f"mtlfast: mtlfast._numerics, which tests use, is left out, since Python.h of "
                f"{sys.executable} is missing (Debian, Ubuntu: apt install python3-dev).",
                file=sys.stderr,
            )
    return {"ext_modules": extensions, "cmdclass": {"build_ext": BuildExtension}}


def main():
    """Tells setuptools what to build."""
    from setuptools import find_packages, setup

    reason = reason_without_native()
    if reason:
        print(
            f"mtlfast: the native part is left out, since {reason}; losses run with the backends "
            "triton and reference.",
            file=sys.stderr,
        )
    setup(
        packages=[*find_packages(include=["mtlfast", "mtlfast.*"]), "mtlfast.kernels"],
        package_dir={"mtlfast.kernels": "kernels"},
        **({} if reason else native_extensions(import_torch())),
    )


if __name__ == "__main__":
    main()
