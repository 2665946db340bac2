"""A kernel that was compiled is launched directly while Triton would find the same arguments."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from mtlfast.kernels import launch

CPU = -1


class Recorder:
    """Stands for a kernel of Triton's, or for what it compiled: notes the arguments it is given."""

    def __init__(self, compiled=None):
        self.compiled, self.calls = compiled, []

    def __getitem__(self, grid):
        def call(*arguments, **options):
            self.calls.append((grid, arguments, options))
            return self.compiled

        return call


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that launches of the CPU's tensors compile and run as on a GPU."""
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: CPU)
    return Recorder(compiled=Recorder())


def launch_of(kernel, programs=3, constants=("mean", (1, 2))):
    return launch.Launch(kernel, programs, constants, launch.Options(256, registers=64))


def aligned(count, dtype=torch.float32, off=0):
    whole = torch.zeros(count + 64, dtype=dtype)
    start = -whole.data_ptr() % 64 // whole.element_size()
    return whole[start + off :][:count]


def test_the_first_launch_compiles_and_later_ones_take_addresses(kernel):
    x, y = aligned(4), aligned(4)
    run = launch_of(kernel)
    run(CPU, (x, None, (x, y)), (5, 6), (0.5, (1.0,)))
    ((grid, given, options),) = kernel.calls
    assert grid == (3, 1, 1) and given == (x, None, (x, y), 5, 6, 0.5, (1.0,), "mean", (1, 2))
    assert options["maxnreg"] == 64 and options["num_warps"] == 8
    z = aligned(4)
    run(CPU, (z, None, (y, x)), (7, 8), (2.0, (3.0,)))
    assert len(kernel.calls) == 1
    ((grid, given, options),) = kernel.compiled.calls
    addresses = (z.data_ptr(), None, (y.data_ptr(), x.data_ptr()))
    assert grid == (3, 1, 1) and options == {}
    assert given == (*addresses, 7, 8, 2.0, (3.0,), "mean", (1, 2))


def test_any_number_of_programs_shares_what_was_compiled(kernel):
    x = aligned(4)
    launch_of(kernel, programs=3)(CPU, (x,), (1,))
    launch_of(kernel, programs=4)(CPU, (x,), (1,))
    assert len(kernel.calls) == 1
    assert [grid for grid, *_ in kernel.compiled.calls] == [(4, 1, 1)]
    launch_of(kernel, constants=("sum", (1, 2)))(CPU, (x,), (1,))
    assert len(kernel.calls) == 2


X = aligned(4)
OTHERS = {
    "dtype": ((aligned(4, torch.bfloat16), None), (1,)),
    "absent": ((None, X), (1,)),
    "both": ((X, X), (1,)),
    "a tuple": (((X, X), None), (1,)),
    "unaligned": ((aligned(4, off=1), None), (1,)),
    "64 bits": ((X, None), (1 << 31,)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_triton_would_specialise_otherwise_is_left_to_it(kernel, other):
    run = launch_of(kernel)
    run(CPU, (X, None), (1,))
    tensors, integers = OTHERS[other]
    for times in (1, 2):
        run(CPU, tensors, integers)
        always = other in ("unaligned", "64 bits")
        assert len(kernel.calls) == (1 + times if always else 2)
    run(CPU, (X, None), (1,))
    assert kernel.compiled.calls[-1][1][:2] == (X.data_ptr(), None)


def test_another_device_is_made_the_current_one(kernel, monkeypatch):
    entered = []

    class Device:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            entered.append(self.index)
            monkeypatch.setattr(torch.cuda, "current_device", lambda: self.index)

        def __exit__(self, *_):
            monkeypatch.setattr(torch.cuda, "current_device", lambda: CPU)

    monkeypatch.setattr(torch.cuda, "device", Device)
    run = launch_of(kernel)
    for _ in range(2):
        run(CPU, (X,), (1,))
        run(1, (X,), (1,))
    assert entered == [1, 1] and len(kernel.calls) == 2 == len(kernel.compiled.calls)


def test_on_amd_the_size_of_a_tensor_is_among_what_triton_looks_at(kernel, monkeypatch):
    monkeypatch.setattr(launch, "_LOOKS_AT_SIZES", True)
    large = torch.empty(1 << 30, dtype=torch.int16, device="meta")
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: 64)
    run = launch_of(kernel)
    for tensor in (torch.empty(4, dtype=torch.int16), large, large):
        run(CPU, (tensor,), (1,))
    assert len(kernel.calls) == 2
