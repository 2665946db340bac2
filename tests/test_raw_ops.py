"""Native ops called as no public function calls them: they refuse, and never end the process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runnable import numbered

from mtlfast.ops import native

pytestmark = pytest.mark.skipif(native.PATH is None, reason="this installation has no native part")
PROGRAM = Path(__file__).parent / "raw_op_calls.py"
OPS = sorted(name for name in dir(native) if name.startswith(("pointwise_", "rows_", "inbatch_")))


@pytest.mark.skipif(sys.platform == "win32", reason="processes fork")
def test_bad_calls_are_refused_in_one_line_and_end_no_process():
    command = [sys.executable, str(PROGRAM), "0", "2000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "2000 calls\n", done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("op", OPS)
def test_ops_take_no_text(op):
    """A str leaks at every call, in torch's conversions."""
    arguments = getattr(torch.ops.mtlfast, op).default._schema.arguments
    assert "str" not in {str(argument.type) for argument in arguments}


def test_meta_tensors_beside_others_are_refused():
    x = torch.zeros(4, 3)
    for tensors in ((x, x.to("meta")), (x.to("meta"), x)):
        with pytest.raises(RuntimeError, match=r"^mtlfast: all tensors must be on one device"):
            native.pointwise_forward(*tensors, *[None] * 5, *numbered("mse_loss", [0.0], "mean"))
