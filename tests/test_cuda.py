"""What only a GPU can show of the native ops: streams, graphs, launches, sizes, devices.

Values and gradients are tested over the case table, in test_accuracy.py.
"""

import pytest
import torch
from runnable import numbered

import mtlfast.functional as MF
from mtlfast.ops import native

ABSENT = native.reason_absent("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(ABSENT), reason=f"no native CUDA: {ABSENT}"),
]
BCE = MF.binary_cross_entropy_with_logits
# Few slots and one block; several splits and tiles; slots that are tasks.
SHAPES = [(4, 3), (8192, 40), (64, 40000)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def batch(shape, device="cuda", dtype=torch.float32):
    """Returns logits that ask for a gradient, and int8 targets of which a third are missing."""
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(shape, device=device, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(-1, 2, shape, device=device, dtype=torch.int8, generator=generator)
    return logits, target


def step(logits, target, **options):
    """Returns loss, task losses, counts and the gradient of both losses."""
    loss, tasks = BCE(logits, target, return_tasks=True, backend="native", **options)
    (gradient,) = torch.autograd.grad(loss.sum() + tasks.loss.sum(), logits)
    return loss.detach(), tasks.loss.detach(), tasks.count, gradient


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@each_shape
def test_results_repeat_bit_for_bit(shape):
    logits, target = batch(shape)
    expected = step(logits, target)
    for _ in range(20):
        assert_same(step(logits, target), expected)


@each_shape
def test_graph_replays_repeat_and_follow_their_input(shape):
    logits, target = batch(shape)
    expected = step(logits, target)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(logits, target)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(logits, target)
    for _ in range(2):
        for result in captured:
            result.zero_()
        graph.replay()
        assert_same(captured, expected)
    with torch.no_grad():
        logits.neg_()
    graph.replay()
    negated = [result.clone() for result in captured]
    assert_same(negated, step(logits, target))


@each_shape
def test_streams_do_not_disturb_each_other(shape):
    logits, target = batch(shape)
    expected = step(logits, target)
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    results = []
    for _ in range(10):
        for stream in streams:
            with torch.cuda.stream(stream):
                results.append(step(logits, target))
    torch.cuda.synchronize()
    for result in results:
        assert_same(result, expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "taskmean"])
def test_the_host_never_waits(reduction):
    logits, target = batch((257, 33))
    mask = torch.rand(257, 33, device="cuda") < 0.5
    task_weight = torch.rand(33, device="cuda")
    try:
        torch.cuda.set_sync_debug_mode("error")
        step(logits, target, mask=mask, task_weight=task_weight, reduction=reduction)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def device_work(function):
    """Returns the names of the kernels and memory operations that a call starts."""
    function()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        function()
        torch.cuda.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    return [event.name for event in profile.events() if event.device_type == on_device]


@each_shape
def test_forward_is_three_kernels_at_most_and_backward_another(shape):
    logits, target = batch(shape)
    ones = torch.ones((), device="cuda")
    forward = device_work(lambda: BCE(logits, target, backend="native"))
    assert len(forward) <= 3 and all("pointwise" in name for name in forward), forward
    loss = BCE(logits, target, backend="native")
    backward = device_work(lambda: torch.autograd.grad(loss, logits, ones, retain_graph=True))
    assert len(backward) == 1, backward


@pytest.mark.slow
@pytest.mark.parametrize("tasks, bytes_each", [(1, 9), (1000, 9), (2**31 + 8, 32)])
def test_more_than_2_31_elements(tasks, bytes_each):
    rows = max(1, (2**31 + 2**20) // tasks)
    if torch.cuda.mem_get_info()[0] < bytes_each * rows * tasks:
        pytest.skip(f"needs {bytes_each * rows * tasks / 2**30:.0f} GiB of free GPU memory")
    logits = torch.zeros(rows, tasks, dtype=torch.bfloat16, device="cuda")
    target = torch.full((rows, tasks), -1, dtype=torch.int8, device="cuda")
    last = slice(-3, None)  # beyond 2^31
    target.view(-1)[last] = 1
    logits.view(-1)[last] = torch.tensor([1.0, -2.0, 3.0], device="cuda")
    small = BCE(logits.view(-1)[last], target.view(-1)[last], backend="native")
    logits.requires_grad_()
    loss, found = BCE(logits, target, return_tasks=True, backend="native")
    torch.testing.assert_close(loss, small)
    assert found.count.sum() == 3
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.count_nonzero() == 3 and gradient.view(-1)[last].count_nonzero() == 3
    del loss, found, gradient
    # Every element counts, and none twice; equal values, whose float32 sums would drift.
    target.fill_(0)
    with torch.no_grad():
        _, found = BCE(logits.zero_(), target, return_tasks=True, backend="native")
    assert found.count.min() == found.count.max() == rows
    for value in (found.loss.min(), found.loss.max()):
        torch.testing.assert_close(value.cpu(), torch.tensor(2.0).log(), rtol=2e-7, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_ops_run_on_the_device_of_their_input():
    expected = step(*batch((8192, 40), "cuda:0"))
    with torch.cuda.device(0):
        got = step(*batch((8192, 40), "cuda:1"))
        assert torch.cuda.current_device() == 0
    assert {t.device.index for t in got} == {1}
    assert_same([t.cpu() for t in got], [t.cpu() for t in expected])


def test_float64_is_refused_in_one_line():
    logits = torch.zeros(2, 2, dtype=torch.float64, device="cuda")
    call = (logits, logits, *[None] * 5, *numbered("mse_loss", [0.0], "mean"))
    with pytest.raises(RuntimeError, match="backend='reference'"):
        native.pointwise_forward(*call)
