"""The native library: no Python in it, and none of another catalogue is taken."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtlfast.ops import native

pytestmark = pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")


def load(library):
    """Returns the process that imported mtlfast with a library."""
    environment = {**os.environ, "MTLFAST_LIBRARY": str(library)}
    command = [sys.executable, "-c", "import mtlfast"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_it_knows_no_python():
    assert Path(native.PATH).name == "libmtlfast.so"
    binary = Path(native.PATH).read_bytes()
    assert b"libtorch_cpu" in binary
    assert not re.search(rb"libtorch_python|libpython|\0_?Py(?!Torch)[A-Z]\w*|pybind11", binary)


@pytest.mark.parametrize(
    "theirs, what",
    [
        (b"smooth_l1_loss", "pointwise"),
        (b"batchmean", "reductions"),
        (b"gamma_pos, clip", "pointwise"),
    ],
)
def test_a_library_of_another_catalogue_is_refused_in_one_line(tmp_path, theirs, what):
    """It would compute another loss by the same number."""
    ours = Path(native.PATH).read_bytes()
    assert theirs in ours
    library = tmp_path / "libother.so"
    library.write_bytes(ours.replace(theirs, theirs[:-1] + b"X"))
    done = load(library)
    assert done.returncode != 0
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: MTLFAST_LIBRARY must name a native library of mtlfast")
    assert f"got {library}: it was built for another version of mtlfast: {what} [" in error
    assert (theirs[:-1] + b"X").decode() in error and "Unset it" in error


def test_a_library_that_is_no_library_of_ours_is_refused_in_one_line():
    import torch

    library = next(Path(torch.__file__).parent.glob("lib/libc10.*"))
    error = load(library).stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: MTLFAST_LIBRARY must name a native library of mtlfast")
    assert f"got {library}: " in error and "mtlfast_facts" in error
