"""How a loss runs: inputs kept, results repeated, threads and memory used, no host asked."""

import os
import time

import pytest
import torch
from accuracy import FOLDER
from backends import FUSED, each_backend, each_fused_backend
from cases import LOSSES, Case, Setting, all_cases, cases
from row_cases import ROW_LOSSES, RowCase, RowSetting

import mtlfast.functional as MF
from mtlfast.bench.measure import peak_extra_bytes

NATIVE_CPU = "native-cpu" in map(str, FUSED)
native_cpu = pytest.mark.skipif(not NATIVE_CPU, reason="this installation has no native part")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
MIB = 1 << 20
LARGE = Setting(
    "large",
    (9001, 40),
    torch.int8,
    0.3,
    {"weight": "full", "task_weight": "task", "sample_weight": "row"},
)


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def results(case, inputs, reduction, backend):
    options = {"reduction": reduction, "backend": backend.name}
    return [*case.values(inputs, **options).values(), *case.gradients(inputs, **options).values()]


def same_bits(one, other):
    return all(
        a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        for a, b in zip(one, other, strict=True)
    )


@each_backend
@pytest.mark.parametrize("case", all_cases("everything", "transposed", "no_rows"), ids=str)
def test_inputs_are_never_changed(case, backend, one_thread):
    inputs = case.inputs(torch.float32, backend.device)
    before = inputs.map(torch.clone)
    for reduction in case.REDUCTIONS:
        results(case, inputs, reduction, backend)
    for (name, tensor), copy in zip(inputs.named().items(), before.named().values(), strict=True):
        assert tensor._version == 0, name
        assert torch.equal(tensor.nan_to_num(7), copy.nan_to_num(7)), name


@each_backend
@pytest.mark.parametrize("case", all_cases("everything", "nan"), ids=str)
def test_second_backward_gives_the_same_gradient(case, backend, one_thread):
    inputs, leaves = case.leaves(case.inputs(torch.float32, backend.device))
    for reduction in case.REDUCTIONS:
        outputs = case.outputs(inputs, reduction=reduction, backend=backend.name)
        upstream = [case.upstream(output) for output in outputs]
        first, second = (
            torch.autograd.grad(outputs, list(leaves.values()), upstream, retain_graph=True)
            for _ in range(2)
        )
        assert same_bits(first, second), reduction


@each_fused_backend
def test_changing_an_input_between_the_passes_is_noticed(backend):
    logits = torch.zeros(4, 3, device=backend.device, requires_grad=True)
    target = torch.ones(4, 3, device=backend.device)
    loss = MF.binary_cross_entropy_with_logits(logits, target, backend=backend.name)
    target.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each_backend
@pytest.mark.parametrize("case", cases("everything", "int8"), ids=str)
def test_gradient_mode_does_not_change_the_loss(case, backend, one_thread):
    inputs = case.inputs(torch.float32, backend.device)
    with_grad = inputs._replace(logits=inputs.logits.clone().requires_grad_())
    for reduction in case.REDUCTIONS:
        options = {"reduction": reduction, "backend": backend.name}
        alone, (loss, _) = case(inputs, **options), case(inputs, return_tasks=True, **options)
        assert torch.equal(alone, loss) and not alone.requires_grad
        tracked = case(with_grad, **options)
        assert torch.equal(alone, tracked) and tracked.requires_grad
        with torch.inference_mode():
            assert torch.equal(alone, case(with_grad, **options))
        _, tasks = case(with_grad, return_tasks=True, **options)
        assert tasks.loss.requires_grad and not tasks.count.requires_grad


def large(pointwise, rows):
    """Returns every loss in a setting of its family."""
    found = [Case(loss, 0, pointwise) for loss in LOSSES]
    return [*found, *(RowCase(loss, 0, rows) for loss in ROW_LOSSES)]


@each_fused_backend
@pytest.mark.parametrize("case", large(LARGE, RowSetting("large", (9001, 33))), ids=str)
def test_results_repeat_bit_for_bit(case, backend):
    for dtype in (torch.float32, torch.bfloat16):
        inputs = case.inputs(dtype, backend.device)
        for reduction in ("none", "mean"):
            first = results(case, inputs, reduction, backend)
            assert same_bits(first, results(case, inputs, reduction, backend)), (dtype, reduction)


@native_cpu
@pytest.mark.parametrize("shape", [(9001, 40), (64, 5000), (300_001, 1)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(shape, threads):
    backend = next(backend for backend in FUSED if str(backend) == "native-cpu")
    setting = Setting("threads", shape, torch.int8, 0.3)
    for case in large(setting, RowSetting("threads", shape)):
        inputs = case.inputs(torch.float32)
        found = []
        for count in (1, 2, 3):
            threads(count)
            found.append(results(case, inputs, "mean", backend))
        assert same_bits(found[0], found[1]) and same_bits(found[0], found[2]), str(case)


@native_cpu
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only")
@pytest.mark.parametrize("shape", [(100_000, 40), (256, 20_000)], ids=["rows", "columns"])
def test_work_is_shared_between_threads(shape, threads):
    """Processor time, unlike wall time, is the same on a busy machine."""
    logits = torch.zeros(shape, requires_grad=True)
    target = torch.ones(shape, dtype=torch.int8)

    def share_of_others(count):
        """Returns the share of processor time that other threads than this one used."""
        threads(count)
        time.sleep(0.2)  # OpenMP's threads spin for a while after their last work
        process, own = time.process_time(), time.thread_time()
        for _ in range(20):
            loss = MF.binary_cross_entropy_with_logits(logits, target, backend="native")
            torch.autograd.grad(loss, logits)
        process, own = time.process_time() - process, time.thread_time() - own
        return 1 - own / process

    share_of_others(2)  # starts the threads
    assert share_of_others(1) < 0.1
    assert share_of_others(2) > 0.25


@each_fused_backend
@pytest.mark.parametrize("shape", [(60_000, 40), (1_200_000, 1), (300, 8_000)], ids=str)
def test_extra_memory_is_the_gradient_and_little_more(shape, backend):
    """In each dtype with one of two reductions in turn, or for `make accuracy` with both."""
    factors = {"pos_weight": "task", "task_weight": "task", "sample_weight": "row"}
    setting = Setting("memory", shape, torch.int8, 0.3, factors)
    cases = large(setting, RowSetting("memory", (shape[0] // 4, shape[1])))
    for turn, case in enumerate(cases, shape[0]):
        drawn = case.inputs(torch.float32, backend.device)
        for k, dtype in enumerate((torch.float32, torch.bfloat16)):
            given = drawn.map(torch.Tensor.detach)
            names = ("input", "x0", "x1", "x2", "x3")
            leaves = [
                tensor.to(dtype).requires_grad_()
                for name, tensor in given.named().items()
                if name in names
            ]
            named = given.named()
            given = given.replace({**named, **dict(zip(named, leaves, strict=False))})

            gradient = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
            reductions = "mean", case.REDUCTIONS[-1]
            for reduction in reductions if FOLDER is not None else [reductions[(turn + k) % 2]]:

                def work(case=case, given=given, leaves=leaves, reduction=reduction):
                    loss = case(given, reduction=reduction, backend=backend.name)
                    torch.autograd.grad(loss, leaves)

                work()
                extra = peak_extra_bytes(work, backend.device) - gradient
                assert 0 <= extra <= 4 * MIB + 64 * shape[-1], (str(case), dtype, reduction, extra)


@pytest.mark.gpu
@needs_gpu
@each_fused_backend
@pytest.mark.parametrize("case", all_cases("everything", "int8"), ids=str)
def test_host_is_never_asked(case, backend):
    if backend.device != "cuda":
        pytest.skip("runs on the GPU only")
    inputs, leaves = case.leaves(case.inputs(torch.float32, backend.device))

    def step(reduction):
        outputs = case.outputs(inputs, reduction=reduction, backend=backend.name)
        return torch.autograd.grad(sum(o.sum() for o in outputs), list(leaves.values()))

    for reduction in case.REDUCTIONS:
        step(reduction)  # compiles and loads
    try:
        torch.cuda.set_sync_debug_mode("error")
        for reduction in case.REDUCTIONS:
            step(reduction)
    finally:
        torch.cuda.set_sync_debug_mode("default")
