"""The losses under torch.func, double backward and CUDA graphs."""

import pytest
import torch
from backends import FUSED, each_backend, each_fused_backend
from cases import LOSSES, Case, Setting, all_cases
from row_cases import ROW_CASES, RowCase, RowSetting
from torch.func import functional_call, grad, jvp, vmap

import mtlfast.functional as MF

pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
FACTORS = {"mask": "full", "weight": "task", "task_weight": "task", "sample_weight": "row"}
EVERYTHING = Setting("composed", (12, 5), "hard", 0.2, FACTORS)
COMPOSED = [
    *(Case(loss, 0, EVERYTHING) for loss in LOSSES),
    *(
        RowCase(c.loss, c.variant, RowSetting("composed", (12, 5), weighted=True))
        for c in ROW_CASES
        if c.setting.name == "plain"
    ),
]


@each_backend
@pytest.mark.parametrize("case", COMPOSED, ids=str)
def test_torch_func_gives_autograds_gradients(case, backend):
    inputs, leaves = case.leaves(case.inputs(torch.float32, backend.device))
    for reduction in ("sum", case.REDUCTIONS[-1]):

        def function(tensors, reduction=reduction):
            given = inputs.replace({**inputs.named(), **tensors})
            return case(given, reduction=reduction, backend=backend.name)

        primals = {name: leaf.detach() for name, leaf in leaves.items()}
        expected = torch.autograd.grad(function(leaves), list(leaves.values()))
        for name, one in zip(leaves, expected, strict=True):
            torch.testing.assert_close(grad(function)(primals)[name], one)
        tangents = {name: case.upstream(t) for name, t in primals.items()}
        _, slope = jvp(function, (primals,), (tangents,))
        sums = [(one * tangents[name]).sum() for name, one in zip(leaves, expected, strict=True)]
        torch.testing.assert_close(slope, torch.stack(sums).sum(), rtol=1e-5, atol=1e-5)


@each_backend
@pytest.mark.parametrize("case", COMPOSED, ids=str)
def test_vmap_equals_a_loop(case, backend):
    if isinstance(case, Case):
        case = Case(case.loss, 0, Setting("vmapped", (3, 6, 4), "hard", 0.2, {"mask": "full"}))
    else:
        case = RowCase(case.loss, case.variant, RowSetting("vmapped", (3, 6, 4), weighted=True))
    inputs = case.inputs(torch.float32, backend.device)
    named = {n: t for n, t in inputs.named().items() if t.dim() > 0}

    def one(first, *rest):
        changed = dict(zip(named, (first, *rest), strict=True))
        given = inputs.replace({**inputs.named(), **changed})
        return case(given, reduction="mean", backend=backend.name)

    tensors = list(named.values())
    together = vmap(one)(*tensors)
    torch.testing.assert_close(together, torch.stack([one(*t) for t in zip(*tensors, strict=True)]))
    per_sample = vmap(grad(one))(*tensors)
    torch.testing.assert_close(per_sample[1], grad(one)(*(t[1] for t in tensors)))


@each_backend
@pytest.mark.parametrize("case", COMPOSED, ids=str)
def test_a_backward_of_several_upstream_gradients_at_once_equals_a_loop(case, backend):
    inputs, leaves = case.leaves(case.inputs(torch.float32, backend.device))
    value = case(inputs, reduction="none", backend=backend.name)
    upstream = torch.randn(3, *value.shape, device=value.device)

    def gradients(one, **options):
        given = list(leaves.values())
        return torch.autograd.grad(value, given, one, retain_graph=True, **options)

    together = gradients(upstream, is_grads_batched=True)
    for found, *alone in zip(together, *map(gradients, upstream), strict=True):
        torch.testing.assert_close(found, torch.stack(alone))


def test_per_sample_gradients_of_a_model():
    model = torch.nn.Linear(5, 3)
    x, y = torch.randn(7, 5), torch.randint(-1, 2, (7, 3))

    def loss(parameters, x, y):
        logits = functional_call(model, parameters, (x[None],))
        return MF.binary_cross_entropy_with_logits(logits, y[None], reduction="sum")

    parameters = dict(model.named_parameters())
    found = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    whole = MF.binary_cross_entropy_with_logits(model(x), y, reduction="sum")
    (expected,) = torch.autograd.grad(whole, model.weight)
    torch.testing.assert_close(found["weight"].sum(0), expected)


@each_fused_backend
@pytest.mark.parametrize("case", all_cases("everything", "int8"), ids=str)
def test_gradient_penalty_equals_the_references(case, backend):
    """Double backward: the gradient of a gradient's norm."""
    for reduction in case.REDUCTIONS:
        found = []
        for name in (backend.name, "reference"):
            inputs, leaves = case.leaves(case.inputs(torch.float32, backend.device))
            leaf = next(iter(leaves.values()))
            loss = case(inputs, reduction=reduction, backend=name).sum()
            (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
            penalty = (slope**2).sum() + loss
            found.append((penalty.detach(), *torch.autograd.grad(penalty, leaf)))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# Enough elements for several blocks: the last one finishes.
CAPTURED = [
    *(Case(loss, 0, Setting("captured", (300, 40), torch.int8, 0.3, FACTORS)) for loss in LOSSES),
    *(
        RowCase(c.loss, c.variant, RowSetting("captured", (300, 40), weighted=True))
        for c in COMPOSED
        if isinstance(c, RowCase)
    ),
]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backend", [b for b in FUSED if b.device == "cuda"], ids=str)
@pytest.mark.parametrize("case", CAPTURED, ids=str)
def test_cuda_graph_replays_on_new_data(case, backend):
    for dtype in backend.dtypes:
        inputs, leaves = case.leaves(case.inputs(dtype, "cuda"))
        leaf = next(iter(leaves.values()))

        def step(case=case, inputs=inputs, leaf=leaf):
            values = case.values(inputs, reduction="mean", backend=backend.name).values()
            total = sum(value.sum() for value in values if value.is_floating_point())
            return *values, *torch.autograd.grad(total, leaf)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        for _ in range(2):
            with torch.no_grad():
                leaf.copy_(torch.randn_like(leaf))
                for tensor in inputs.named().values():
                    if tensor is not leaf and tensor.dim():
                        tensor.copy_(tensor.roll(7, 0))
            graph.replay()
            for one, other in zip(captured, step(), strict=True):
                assert torch.equal(one, other), dtype
