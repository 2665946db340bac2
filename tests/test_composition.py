"""The ops inside torch's machinery: opcheck, compile, torch.func, double backward, CUDA graphs."""

import warnings

import pytest
import torch
from backends import FUSED, each_backend, each_fused_backend
from cases import LOSSES, REDUCTIONS, Case, Setting, cases, each_loss
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.func import functional_call, grad, jvp, vmap

import mtlfast.functional as MF
from mtlfast.ops import native

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch.compile does so itself while it traces.
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
]
PARAMS = {
    "sigmoid_focal_loss": [0.25, 2],
    "asymmetric_loss": [2, 1, 0.05, 1e-8],
    "smooth_l1_loss": [1],
}
native_only = pytest.mark.skipif(native._C is None, reason="this installation has no native part")
compiles = pytest.mark.skipif(
    not torch._dynamo.is_dynamo_supported(), reason="torch.compile does not run on this Python"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
FACTORS = {"mask": "full", "weight": "task", "task_weight": "task", "sample_weight": "row"}
EVERYTHING = Setting("composed", (12, 5), "hard", 0.2, FACTORS)


@pytest.fixture
def fresh():
    """Forgets what was compiled before and after."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@native_only
@each_loss
def test_native_ops_pass_opcheck(loss):
    forward = torch.ops.mtlfast.pointwise_forward.default
    backward = torch.ops.mtlfast.pointwise_backward.default
    params = [0.0, *PARAMS.get(loss, [])]
    for dtype, reduction, bare in [
        (torch.float32, "taskmean", False),
        (torch.bfloat16, "none", False),
        (torch.float64, "mean", True),
    ]:
        settings = (loss, params, reduction)
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        x, y = torch.randn(6, 4).to(dtype), torch.randint(-1, 2, (6, 4), dtype=torch.int8)
        full = torch.rand(6, 4, dtype=compute)
        operands = [y > -5, full, full[:1].expand(6, 4), full[:, :1].expand(6, 4), full[0]]
        given = (x, y, *([None] * 5 if bare else operands))
        torch.library.opcheck(forward, (*given, *settings))
        value, task_loss, *rest = forward(*given, *settings)
        for upstream in ((value, task_loss), (value, None), (None, task_loss)):
            torch.library.opcheck(backward, (*upstream, *given, *rest, *settings))


class Recorder:
    """A torch.compile backend that runs the traced graphs as they are, and keeps them."""

    def __init__(self):
        self.forward, self.backward = [], []
        self.backend = aot_autograd(
            fw_compiler=self.keeping(self.forward), bw_compiler=self.keeping(self.backward)
        )

    @staticmethod
    def keeping(graphs):
        def compiler(graph, _):
            graphs.append([str(node.target) for node in graph.graph.nodes])
            return make_boxed_func(graph.forward)

        return compiler

    def calls(self, graphs, name):
        return [sum(f"mtlfast.{name}" in target for target in graph) for graph in graphs]


def compiled(function, recorder, **options):
    return torch.compile(function, fullgraph=True, backend=recorder.backend, **options)


@compiles
@native_only
@pytest.mark.parametrize(
    "loss, dynamic", [*((loss, True) for loss in LOSSES), ("asymmetric_loss", False)]
)
def test_compiled_graphs_hold_our_ops_and_give_eager_numbers(loss, dynamic, fresh):
    case, recorder = Case(loss, 0, EVERYTHING), Recorder()

    def step(inputs, reduction):
        value, tasks = case(inputs, reduction=reduction, return_tasks=True)
        return value.sum() + (2 * tasks.loss).sum(), tasks.count

    quick = compiled(step, recorder, dynamic=dynamic)
    for rows in (12, 31) if dynamic else (12,):
        case = Case(loss, 0, Setting("composed", (rows, 5), "hard", 0.2, FACTORS))
        inputs = case.inputs(torch.float32)
        results = []
        for run in (step, quick):
            leaves = [inputs.logits.clone().requires_grad_(), inputs.factors["task_weight"].clone()]
            leaves[1].requires_grad_()
            factors = {**inputs.factors, "task_weight": leaves[1]}
            value, count = run(inputs._replace(logits=leaves[0], factors=factors), "taskmean")
            results.append((value, count, *torch.autograd.grad(value, leaves)))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
    assert recorder.calls(recorder.forward, "pointwise_forward") == [1]
    assert recorder.calls(recorder.backward, "pointwise_backward") == [1]


@compiles
@native_only
def test_compiled_loss_without_gradient_is_one_op(fresh):
    recorder = Recorder()
    quick = compiled(MF.binary_cross_entropy_with_logits, recorder)
    x, y = torch.randn(6, 4), torch.rand(6, 4)
    torch.testing.assert_close(quick(x, y), MF.binary_cross_entropy_with_logits(x, y))
    assert recorder.calls(recorder.forward, "pointwise_forward") == [1]
    assert not recorder.backward


@compiles
@native_only
def test_gradients_beyond_the_kernels_compile_too(fresh):
    """The gradient of target, weight or sample_weight comes from the reference."""
    case = Case("binary_cross_entropy_with_logits", 0, EVERYTHING)
    inputs, recorder = case.inputs(torch.float32), Recorder()
    names = ("input", "weight", "task_weight", "sample_weight")
    for reduction in ("none", "mean"):

        def step(inputs, reduction=reduction):
            return case(inputs, reduction=reduction).sum()

        found = []
        for run in (step, compiled(step, recorder)):
            given = inputs.map(lambda t: t.detach().clone())
            leaves = [given.named()[name].requires_grad_() for name in names]
            found.append(torch.autograd.grad(run(given), leaves))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


@compiles
@native_only
def test_new_batch_sizes_compile_once_more_and_never_again(fresh):
    recorder = Recorder()
    quick = compiled(MF.binary_cross_entropy_with_logits, recorder)
    for rows in (8, 9, 10, 11, 33, 64, 65):
        x, y = torch.randn(rows, 4, requires_grad=True), torch.rand(rows, 4)
        quick(x, y).backward()
    assert len(recorder.forward) <= 2


@compiles
@pytest.mark.slow
def test_inductor_gives_eager_numbers(fresh):
    pytest.importorskip("torch._inductor")
    linear = torch.nn.Linear(7, 4)
    x = torch.randn(33, 7)
    y = torch.randint(-1, 2, (33, 4), dtype=torch.int8)

    def step(x, y):
        loss, tasks = MF.binary_cross_entropy_with_logits(linear(x), y, return_tasks=True)
        return loss + tasks.loss.sum()

    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what inductor says of this machine
        for run in (step, torch.compile(step, fullgraph=True, dynamic=True)):
            linear.zero_grad()
            loss = run(x, y)
            loss.backward()
            results.append((loss.detach(), linear.weight.grad.clone()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@each_backend
@each_loss
def test_torch_func_gives_autograds_gradients(loss, backend):
    case = Case(loss, 0, EVERYTHING)
    inputs = case.inputs(torch.float32, backend.device)
    names = ("input", "weight", "task_weight", "sample_weight")
    names = [name for name in names if name in inputs.named()]
    for reduction in ("sum", "taskmean"):

        def function(tensors, reduction=reduction):
            given = {**inputs.named(), **tensors}
            logits, target = given.pop("input"), given.pop("target")
            changed = inputs._replace(logits=logits, target=target, factors=given)
            return case(changed, reduction=reduction, backend=backend.name)

        primals = {name: inputs.named()[name] for name in names}
        leaves = {name: t.clone().requires_grad_() for name, t in primals.items()}
        expected = torch.autograd.grad(function(leaves), list(leaves.values()))
        for name, one in zip(names, expected, strict=True):
            torch.testing.assert_close(grad(function)(primals)[name], one)
        tangents = {name: case.upstream(t) for name, t in primals.items()}
        _, slope = jvp(function, (primals,), (tangents,))
        sums = [(one * tangents[name]).sum() for name, one in zip(names, expected, strict=True)]
        torch.testing.assert_close(slope, torch.stack(sums).sum(), rtol=1e-5, atol=1e-5)


@each_backend
@each_loss
def test_vmap_equals_a_loop(loss, backend):
    case = Case(loss, 0, Setting("vmapped", (3, 6, 4), "hard", 0.2, {"mask": "full"}))
    inputs = case.inputs(torch.float32, backend.device)

    def one(logits, target, mask):
        given = inputs._replace(logits=logits, target=target, factors={"mask": mask})
        return case(given, reduction="mean", backend=backend.name)

    tensors = (inputs.logits, inputs.target, inputs.factors["mask"])
    together = vmap(one)(*tensors)
    torch.testing.assert_close(together, torch.stack([one(*t) for t in zip(*tensors, strict=True)]))
    per_sample = vmap(grad(one))(*tensors)
    torch.testing.assert_close(per_sample[1], grad(one)(*(t[1] for t in tensors)))


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
@pytest.mark.parametrize("case", cases("everything", "int8"), ids=str)
def test_gradient_penalty_equals_the_references(case, backend):
    """Double backward: the gradient of a gradient's norm."""
    inputs = case.inputs(torch.float32, backend.device)
    for reduction in REDUCTIONS:
        found = []
        for name in (backend.name, "reference"):
            leaf = inputs.logits.clone().requires_grad_()
            given = inputs._replace(logits=leaf)
            loss = case(given, reduction=reduction, backend=name).sum()
            (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
            penalty = (slope**2).sum() + loss
            found.append((penalty.detach(), *torch.autograd.grad(penalty, leaf)))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backend", [b for b in FUSED if b.device == "cuda"], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_cuda_graph_replays_on_new_data(loss, backend):
    case = Case(loss, 0, Setting("captured", (300, 40), torch.int8, 0.3, FACTORS))
    for dtype in backend.dtypes:
        inputs = case.inputs(dtype, "cuda")
        inputs.logits.requires_grad_()

        def step(case=case, inputs=inputs):
            loss, tasks = case(inputs, reduction="mean", return_tasks=True, backend=backend.name)
            total = loss + tasks.loss.sum()
            return loss, tasks.count, *torch.autograd.grad(total, inputs.logits)

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
                inputs.logits.copy_(torch.randn_like(inputs.logits))
                inputs.target.copy_(inputs.target.roll(7, 0))
            graph.replay()
            for one, other in zip(captured, step(), strict=True):
                assert torch.equal(one, other), dtype
