"""Compiles what the public functions launch, by Triton's own JIT and without a GPU: a program.

    python tests/triton_jit.py TARGET ... [--every N] [--assemble N]

Tests that compile ahead of time choose signatures themselves and so miss what the JIT makes of a
call: arguments equal to 1 become constants, None goes into the signature, tuples do both to their
elements. Here the driver is a stub and a launch ends where it would run. The calls are the case
tables', forward and backward. Each target has a process, because driver and warp size belong to it,
forked when all is imported. Run by test_triton_jit.py; with another Triton by .ci/triton.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import multiprocessing
import random
import re
import sys
import types
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import triton
import triton.compiler
from backends import NARROW
from batch_cases import BATCHES, Batch, batch_of
from batch_cases import LOSSES as BATCH_LOSSES
from cases import CASES
from mtlfast.kernels import launch
from row_cases import ROW_CASES
from triton._C.libtriton import ir
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from triton_tools import TARGETS

from mtlfast.ops import backends, inbatch

PROCESSORS = 132
Call = tuple[str, str, Callable[[], None]]  # the loss it is of, its own name, and itself


class Stub:
    """A driver for a GPU that isn't there."""

    utils = types.SimpleNamespace(
        get_device_properties=lambda device: {
            "max_shared_mem": 65536,
            "multiprocessor_count": PROCESSORS,
            "warpSize": launch.WARP,
            "max_num_regs": 65536,
        }
    )

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Compiler:
    """Takes the place of triton.compile: each specialisation through the front end, some further.

    Lowering to machine code takes ten times as long, and depends on less: `assemble` says of how
    many kernels one is.
    """

    def __init__(self, assemble: int) -> None:
        self.assemble, self.whole = assemble, triton.compiler.compile
        self.kernels = self.assembled = 0
        self.names: set[str] = set()

    def __call__(self, source: Any, target: Any = None, options: Any = None, **rest: Any) -> Any:
        self.kernels += 1
        self.names.add(f"{source.fn.__module__}.{source.fn.__name__}")
        if self.kernels % self.assemble == 0:
            self.assembled += 1
            return self.whole(source, target=target, options=options, **rest)
        backend = triton.compiler.make_backend(target)
        options = backend.parse_options(dict(options))
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        functions = backend.get_codegen_implementation(options)
        source.make_ir(target, options, functions, backend.get_module_map(), context)
        return object()


def without_gpu(target: Any, compiler: Compiler) -> None:
    """Makes the Triton backend take CPU tensors, and its launches end with compilation."""
    # Before the op modules are imported: they take the warp size and register their ops then.
    launch.WARP, launch.INTERPRETED = target.warp_size, True
    launch.overlaps = lambda device: target.backend == "cuda" and target.arch >= 90
    found = backends.BACKENDS["triton"]
    backends.BACKENDS["triton"] = dataclasses.replace(found, reason=lambda device: None)
    inbatch.TILE = 1 << 12  # several tiles
    driver.set_active(Stub(target))
    triton.compiler.compile = compiler
    run = JITFunction.run

    def warm_up(self: Any, *args: Any, grid: Any = None, warmup: bool = False, **given: Any) -> Any:
        if "enable_fp_fusion" not in given:
            raise AssertionError(f"{self.__name__}'s launch does not say enable_fp_fusion")
        return run(self, *args, grid=grid, warmup=True, **given)

    JITFunction.run = warm_up


def _some(rng: random.Random, things: list[Any]) -> list[Any]:
    """Returns all of them, or one."""
    return things if rng.random() < 0.5 else [rng.choice(things)]


def _run(case: Any, dtype: torch.dtype, reduction: str, rng: random.Random) -> None:
    """Runs a case of a table, forward and backward, of and for all or some of the tensors."""
    inputs = case.inputs(dtype).map(torch.Tensor.detach)
    named = inputs.named()
    names = [name for name in named if name != "target" and name not in inputs.factors]
    for name in _some(rng, names):
        named[name].requires_grad_()
    case.values(inputs, reduction=reduction, backend="triton")["loss"].sum().backward()
    outputs = case.outputs(inputs, reduction=reduction, backend="triton")
    sum(output.sum() for output in _some(rng, outputs)).backward()
    with torch.no_grad():
        case(inputs, reduction=reduction, backend="triton")


def _run_batch(loss: Any, batch: Batch, rng: random.Random) -> None:
    rows = [t for t in (batch.embeddings, batch.ref_embeddings) if t is not None]
    loss(batch, backend="triton")
    for tensor in _some(rng, rows):
        tensor.requires_grad_()
    loss(batch, backend="triton").backward()


def _sized(rows: int, width: int, others: int | None, labels: int | None) -> Batch:
    """Sizes that the JIT takes for constants, 1, or knows to be divisible, 16."""

    def side(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (count,) if labels is None else (count, labels)
        found = torch.randint(0, 2, shape)
        return torch.randn(count, width), found.bool() if labels == 1 else found

    return Batch(*side(rows), *((None, None) if others is None else side(others)))


def _batches() -> dict[str, Callable[[], Batch]]:
    found = {name: lambda name=name: batch_of(name) for name in BATCHES}
    for size in itertools.product((1, 16), (1, 16, 17), (None, 1, 16), (None, 1, 64, 65)):
        found["x".join(map(str, size))] = lambda size=size: _sized(*size)
    return found


def calls() -> Iterator[Call]:
    """Yields every case, in the dtypes and reductions there are."""
    for case in (*CASES, *ROW_CASES):
        for dtype, reduction in itertools.product(NARROW, case.REDUCTIONS):
            name = f"{case} {dtype} {reduction}"
            rng = random.Random(name)
            yield case.loss, name, lambda c=case, d=dtype, r=reduction, g=rng: _run(c, d, r, g)
    for loss, (kind, make), dtype in itertools.product(BATCH_LOSSES, _batches().items(), NARROW):
        name = f"{loss} {kind} {dtype}"
        rng = random.Random(name)
        of = f"{loss.function.__name__} {loss.options.get('mining')}"
        yield of, name, lambda f=loss, m=make, d=dtype, g=rng: _run_batch(f, m().to(d), g)


def chosen(every: int, target: str) -> Iterator[Call]:
    """Yields a target's share of one call of `every` of each loss, others for another target.

    Over all targets a loss has one call at least; the first loss's first has many tasks, which take
    a launch more.
    """
    losses = defaultdict(list)
    for call in calls():
        losses[call[0]].append(call)
    first = next(iter(losses.values()))
    for turn, found in enumerate(losses.values(), list(TARGETS).index(target)):
        found.sort(key=lambda call: zlib.crc32(f"{target} {call[1]}".encode()))
        if found is first:
            found.sort(key=lambda call: not re.search("long_rows.* mean", call[1]))
        dealt = -(-len(found) * len(TARGETS) // every)
        yield from found[: (dealt + turn % len(TARGETS)) // len(TARGETS)]


def all_kernels() -> set[str]:
    """Returns the names of the package's kernels, as opposed to what they call."""
    modules = [m for name, m in sys.modules.items() if name.startswith("mtlfast.kernels.")]
    found = (thing for module in modules for thing in vars(module).values())
    functions = [thing for thing in found if isinstance(thing, JITFunction)]
    return {f"{f.__module__}.{f.__name__}" for f in functions if f.__name__.endswith("_kernel")}


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip()[-300:]}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument(
        "--every", type=int, default=1, help="make one of so many calls of each loss"
    )
    parser.add_argument("--assemble", type=int, default=20, help="one kernel of so many to the end")
    options = parser.parse_args(arguments)
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    codes, missed, fork = [], [], multiprocessing.get_context("fork")
    for target in options.targets:
        names, told = fork.Pipe(duplex=False)
        given = (target, options.every, options.assemble, told)
        process = fork.Process(target=compile_for, args=given)
        process.start()
        told.close()
        with contextlib.suppress(EOFError):  # it ended before: its exit code says so
            missed.append(names.recv())
        process.join()
        codes.append(process.exitcode)
    by_none = sorted(set.intersection(*missed)) if missed else []
    if by_none:
        print(f"FAILED: no call launched {', '.join(by_none)}.")
    return 1 if any(codes) or by_none else 0


def compile_for(target: str, every: int, assemble: int, told: Connection) -> None:
    """Makes the calls for one target, and exits with status 1 where one fails.

    The names of the kernels that none of them launched are sent to `told`.
    """
    compiler = Compiler(assemble)
    without_gpu(TARGETS[target], compiler)
    made, failed = 0, []
    for _, name, call in chosen(every, target):
        made += 1
        try:
            call()
        except Exception as error:
            failed.append(name)
            print(f"FAILED {name}: {_cause(error)}", flush=True)
    told.send(all_kernels() - compiler.names)
    print(
        f"Triton {triton.__version__}, {target}: {made} calls, {compiler.kernels} kernels "
        f"({compiler.assembled} assembled), {len(failed)} calls failed."
    )
    sys.exit(1 if failed or not compiler.assembled else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
