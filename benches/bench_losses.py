"""The losses against what one would otherwise write (rivals.py), case by case.

Every run is checked before it is timed: value and gradient against the specification in float64.
Where a case fits into the last-level cache, runs rotate over copies of its inputs that together
fill it at least twice (at most 64 copies), ours and the rivals' alike. "op" calls the backend's two
ops on prepared arguments; "call" is the public function with a plain backward, and without a
gradient asked for where only the forward is timed; "graph" replays a captured CUDA graph.
"""

import os
from unittest import mock

import pytest
import torch
from rivals import compiled
from timing_runs import ALL_CASES, runs
from timing_tools import (
    Others,
    chosen_device,
    clock,
    graphed,
    last_cache_bytes,
    peak_extra_bytes,
    plan,
    rotate,
)
from torch.utils._pytree import tree_map_only

from mtlfast.ops.backends import select

pytestmark = [
    pytest.mark.benchmark(timer=clock),
    pytest.mark.filterwarnings("ignore"),  # torch.compile warns of what is not ours to change
]

MOST_COPIES = 64
GRAPHS = 4  # captured at most: each keeps its memory
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}
FLOAT16_SCALE = 2.0**15  # gradients of a mean over a million elements underflow in float16


def pytest_generate_tests(metafunc):
    """Lists the runs of every case for the device that the options choose."""
    config = metafunc.config
    device = chosen_device(config)
    chosen = [
        (case, run)
        for case in ALL_CASES
        if (case.quick or not config.getoption("quick")) and (device == "cuda" or not case.gpu_only)
        for run in runs(case, device)
    ]
    ids = [f"{case.name} {run.name}".replace(" ", "-") for case, run in chosen]
    metafunc.parametrize(("case", "run"), chosen, ids=ids)


class Prepared:
    """A case with its inputs made, the true answer known and a function for every rival."""

    def __init__(self, case, device):
        self.case, self.device = case, device
        first = case.inputs(device)
        held = sum(tensor.nbytes for tensor in first)
        copies = min(max(-(-2 * last_cache_bytes(device) // held), 1), MOST_COPIES)
        self.inputs = [first] + [
            tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in first)
            for _ in range(copies - 1)
        ]
        self.upstream = FLOAT16_SCALE if case.dtype == "float16" else None
        self.truth = self.exact(first) if case.checked else ()
        self.functions = {"mtlfast": case.ours}
        self.functions["reference"] = lambda *given: case.ours(*given, backend="reference")

    def exact(self, inputs):
        """Returns value and gradients of the specification in float64."""
        inputs = [
            t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t
            for t in inputs
        ]
        value = self.case.ours(*inputs, backend="reference")
        value.backward(torch.full_like(value, self.upstream or 1.0))
        return value.detach(), *(t.grad for t in inputs if t.requires_grad)

    def function(self, who):
        """Returns the rival; skips where the machine can't run it."""
        if who not in self.functions:
            function = self.case.rival(who)
            self.functions[who] = self.compile(function) if who == "compile" else function
        if isinstance(self.functions[who], str):
            pytest.skip(self.functions[who])
        return self.functions[who]

    def compile(self, plain):
        """Returns the compiled function, or the reason why it can't be compiled."""
        function = compiled(plain)
        try:
            for inputs in ([t.detach() for t in self.inputs[0]], self.inputs[0]):
                value = function(*inputs)
            value.backward()
            self.take_gradients(self.inputs[0])
        except Exception as error:
            return f"not run: torch.compile fails here: {str(error).splitlines()[0]}"
        return function

    @staticmethod
    def take_gradients(inputs):
        """Returns the gradients, and leaves none behind."""
        gradients = []
        for tensor in inputs:
            if tensor.requires_grad:
                gradients.append(tensor.grad)
                tensor.grad = None
        return gradients

    def backward(self, loss):
        """Runs the backward, with an upstream gradient only where underflow demands one."""
        loss.backward(None if self.upstream is None else torch.full_like(loss, self.upstream))

    def call(self, who, passes, inputs):
        """Returns one public call, as a step without arguments."""
        function = self.function(who)
        if passes == "forward":
            inputs = [t.detach() for t in inputs]
            return lambda: [function(*inputs)]

        def step():
            loss = function(*inputs)
            self.backward(loss)
            return loss, *self.take_gradients(inputs)

        return step

    def op(self, passes, inputs):
        """Returns the backend's ops on the arguments that a public call hands them."""
        family = self.case.family
        ops = select("auto", self.device, inputs[0].dtype, family)
        if ops is None:
            pytest.skip("not run: no backend with ops of its own")
        recorded = []
        names = (f"{family}_forward", f"{family}_backward")
        kernels = [getattr(ops, name) for name in names]
        with (
            mock.patch.object(ops, names[0], wraps=kernels[0]) as forward,
            mock.patch.object(ops, names[1], wraps=kernels[1]) as backward,
        ):
            self.backward(self.case.ours(*inputs))
            self.take_gradients(inputs)
            for call in (forward.call_args, backward.call_args):
                assert not call.kwargs
                recorded.append(tree_map_only(torch.Tensor, torch.Tensor.detach, call.args))
        (forward, backward), (given, given_back) = kernels, recorded
        if passes == "forward":
            return lambda: forward(*given)[:1]

        def step():
            value = forward(*given)[0]
            gradients = backward(*given_back)
            return value, *([gradients] if torch.is_tensor(gradients) else gradients)

        return step

    def graph(self, who, inputs):
        """Returns the replay of one captured call."""
        function = self.function(who)
        leaves = [t for t in inputs if t.requires_grad]
        return graphed(lambda: torch.autograd.grad(function(*inputs), leaves))

    def steps(self, run):
        """Returns one step per copy of the inputs."""
        if run.level == "graph":
            return [self.graph(run.who, inputs) for inputs in self.inputs[:GRAPHS]]
        if run.level == "op":
            return [self.op(run.passes, inputs) for inputs in self.inputs]
        return [self.call(run.who, run.passes, inputs) for inputs in self.inputs]

    def errors(self, run, step):
        """Returns errors against float64, relative: the value's, and the gradients' together.

        What a graph computes is what the captured call computes, and that is checked.
        """
        if run.level == "graph" or not self.truth:
            return {}
        value, *gradients = step()
        found = {"error_value": _error([value], self.truth[:1])}
        if gradients:
            found["error_gradient"] = _error(gradients, self.truth[1:])
        return found


def _error(found, truth):
    pairs = list(zip(found, truth, strict=True))
    apart = sum(float((one.detach().double() - exact).norm() ** 2) for one, exact in pairs)
    return (apart / sum(float(exact.norm() ** 2) for _, exact in pairs)) ** 0.5


@pytest.fixture(scope="module")
def prepare(session):
    """Prepares a case; the last one is kept, because its runs follow one another."""
    last = [None]

    def prepare(case):
        if last[0] is None or last[0].case is not case:
            last[0] = None
            last[0] = Prepared(case, session.device)
        return last[0]

    return prepare


def bench_loss(benchmark, session, prepare, case, run):
    if session.over():
        pytest.skip("not run: the time limit was reached (--limit)")
    prepared = prepare(case)
    steps = prepared.steps(run)
    errors = prepared.errors(run, steps[0])
    assert all(error < TOLERANCE[case.dtype] for error in errors.values()), errors
    copy = session.copy_bandwidth(anew=run.who == "mtlfast")
    work = rotate(steps)
    rounds, iterations = plan(work, len(steps), session.budget)
    others = Others()
    benchmark.pedantic(work, rounds=rounds, iterations=iterations)
    load = others.load()
    if benchmark.stats is None:  # --benchmark-disable
        return
    stats = benchmark.stats.stats
    moved = case.bytes_moved(run.passes)
    info = {
        "case": case.name,
        "who": run.who,
        "level": run.level,
        "passes": run.passes,
        "elements": case.elements,
        "bytes": moved,
        "ns_per_element": stats.median * 1e9 / case.elements,
        "gb_per_s": moved / stats.median / 1e9,
        "copy_share": moved / stats.median / copy,
        "copy_gb_per_s": copy / 1e9,
        "input_copies": len(steps),
        "load": load,
        "loadavg": os.getloadavg()[0],
        **errors,
    }
    if run.passes != "forward" and run.level != "graph":
        info["peak_extra_bytes"] = peak_extra_bytes(steps[0], session.device)
    benchmark.extra_info.update(info)
    session.add(case, run, {**info, "median": stats.median, "iqr": stats.iqr})
