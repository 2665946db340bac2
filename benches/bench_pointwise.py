"""The pointwise losses against what one would otherwise write (rivals.py), case by case.

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
from rivals import RIVALS, compiled
from timing_cases import CASES, runs
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

import mtlfast.functional as MF
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
        for case in CASES
        if (case.quick or not config.getoption("quick")) and (device == "cuda" or not case.gpu_only)
        for run in runs(case, device)
    ]
    ids = [f"{case.name} {run.name}".replace(" ", "-") for case, run in chosen]
    metafunc.parametrize(("case", "run"), chosen, ids=ids)


class Prepared:
    """A case with its inputs made, the true answer known and a function for every rival."""

    def __init__(self, case, device):
        self.case, self.device = case, device
        x, y = case.inputs(device)
        held = x.nbytes + y.nbytes
        copies = min(max(-(-2 * last_cache_bytes(device) // held), 1), MOST_COPIES)
        self.inputs = [(x, y)] + [
            (x.detach().clone().requires_grad_(), y.clone()) for _ in range(copies - 1)
        ]
        self.upstream = FLOAT16_SCALE if case.dtype == "float16" else None
        exact = x.detach().double().requires_grad_()
        target = y.double() if y.is_floating_point() else y
        value = self.loss(exact, target, backend="reference")
        value.backward(torch.full_like(value, self.upstream or 1.0))
        self.truth = value.detach(), exact.grad
        self.functions = {"mtlfast": self.loss, **RIVALS}
        self.functions["reference"] = lambda x, y: self.loss(x, y, backend="reference")

    def loss(self, x, y, **options):
        """Calls our public function; the mean over labelled elements, as all rivals have it."""
        return getattr(MF, self.case.loss)(x, y, reduction="mean", **options)

    def function(self, who):
        """Returns the rival; skips where the machine can't compile it."""
        if who == "compile" and who not in self.functions:
            function = compiled()
            try:
                x, y = self.inputs[0]
                function(x.detach(), y)
                function(x, y).backward()
                x.grad = None
            except Exception as error:
                function = f"not run: torch.compile fails here: {str(error).splitlines()[0]}"
            self.functions[who] = function
        if isinstance(self.functions[who], str):
            pytest.skip(self.functions[who])
        return self.functions[who]

    def backward(self, loss):
        """Runs the backward, with an upstream gradient only where underflow demands one."""
        loss.backward(None if self.upstream is None else torch.full_like(loss, self.upstream))

    def call(self, who, passes, x, y):
        """Returns one public call on (x, y), as a step without arguments."""
        function = self.function(who)
        if passes == "forward":
            x = x.detach()
            return lambda: function(x, y)

        def step():
            loss = function(x, y)
            self.backward(loss)
            gradient, x.grad = x.grad, None
            return loss, gradient

        return step

    def op(self, passes, x, y):
        """Returns the backend's ops on the arguments that a public call hands them."""
        ops = select("auto", self.device, x.dtype)
        if ops is None:
            pytest.skip("not run: no backend with ops of its own")
        recorded = []
        names = ("pointwise_forward", "pointwise_backward")
        kernels = [getattr(ops, name) for name in names]
        with (
            mock.patch.object(ops, names[0], wraps=kernels[0]) as forward,
            mock.patch.object(ops, names[1], wraps=kernels[1]) as backward,
        ):
            self.backward(self.loss(x, y))
            x.grad = None
            for call in (forward.call_args, backward.call_args):
                assert not call.kwargs
                recorded.append([a.detach() if torch.is_tensor(a) else a for a in call.args])
        (forward, backward), (given, given_back) = kernels, recorded
        if passes == "forward":
            return lambda: forward(*given)
        return lambda: (forward(*given), backward(*given_back))

    def graph(self, who, x, y):
        """Returns the replay of one captured call."""
        function = self.function(who)
        return graphed(lambda: torch.autograd.grad(function(x, y), x))

    def steps(self, run):
        """Returns one step per copy of the inputs."""
        if run.level == "graph":
            return [self.graph(run.who, x, y) for x, y in self.inputs[:GRAPHS]]
        if run.level == "op":
            return [self.op(run.passes, x, y) for x, y in self.inputs]
        return [self.call(run.who, run.passes, x, y) for x, y in self.inputs]

    def errors(self, run, step):
        """Returns errors against float64, relative: the value's, and the gradient if there is one.

        What a graph computes is what the captured call computes, and that is checked.
        """
        if run.level == "graph":
            return {}
        result = step()
        if run.passes == "forward":
            result = (result,)
        value = result[0][0] if run.level == "op" else result[0]
        found = dict(zip(("value", "gradient"), (value, *result[1:]), strict=False))
        return {
            f"error_{name}": float((ours.detach().double() - truth).norm() / truth.norm())
            for (name, ours), truth in zip(found.items(), self.truth, strict=False)
        }


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


def bench_pointwise(benchmark, session, prepare, case, run):
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
