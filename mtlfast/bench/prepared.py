"""A case made ready: inputs to rotate over, the answer in float64, one step for every run.

Where a case fits into the last-level cache, runs rotate over copies of its inputs that together
fill it at least twice (at most 64 copies), ours and the rivals' alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mtlfast.bench import rivals
from mtlfast.bench.case import Case, NotRun, Run
from mtlfast.bench.measure import graphed, last_cache_bytes, memory_bytes

__all__ = ["TOLERANCE", "Prepared", "Wrong"]

MOST_COPIES = 64
AT_ONCE = 1 << 24  # elements compared with the truth
GRAPHS = 4  # captured at most: each keeps its memory
TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}
FLOAT16_SCALE = 2.0**15  # gradients of a mean over a million elements underflow in float16
Step = Callable[[], Sequence[Tensor]]


class Wrong(NotRun):
    """A run whose value or gradient is not the one in float64."""


class Prepared:
    """A case with its inputs made, the true answer known and a function for every rival.

    Args:
        case: the case.
        device: "cpu" or "cuda".
    """

    def __init__(self, case: Case, device: str) -> None:
        self.case, self.device = case, device
        self.tolerance = TOLERANCE[case.dtype] * case.slack
        first = case.inputs(device)
        held = sum(tensor.nbytes for tensor in first)
        copies = min(max(-(-2 * last_cache_bytes(device) // held), 1), MOST_COPIES)
        self.inputs = [first] + [
            tuple(t.detach().clone().requires_grad_(t.requires_grad) for t in first)
            for _ in range(copies - 1)
        ]
        self.gradient_bytes = sum(t.nbytes for t in first if t.requires_grad)
        self.upstream = FLOAT16_SCALE if case.dtype == "float16" else None
        self.truth = self._truth(first)
        self._functions: dict[str, Callable[..., Tensor] | NotRun] = {"mtlfast": case.ours}

    def _truth(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns value and gradients of the specification in float64.

        In half of the memory: of all rows at once where that suffices, else of some at a time and
        summed up. Nothing where not even the gradients have room, or rows know of each other.
        """
        case, allowed = self.case, memory_bytes(self.device) / 2
        if case.truth_bytes <= allowed:
            return self._exact(inputs)
        kept = sum(8 * t.numel() for t in inputs if t.requires_grad)
        rows = int((allowed - kept) / (case.truth_bytes / case.rows))
        if not case.apart or rows < 1:
            return []
        value, divisor = torch.zeros(2, dtype=torch.float64, device=self.device)
        gradients = [torch.empty_like(t, dtype=torch.float64) for t in inputs if t.requires_grad]
        for first in range(0, case.rows, rows):
            part = [t.detach()[first : first + rows] for t in inputs]
            for some, whole in zip(part, inputs, strict=True):
                some.requires_grad_(whole.requires_grad)
            divisor += case.divisor(*part)
            one, *grads = self._exact(part, "sum")
            value += one
            for gradient, grad in zip(gradients, grads, strict=True):
                gradient[first : first + rows] = grad
        return [total.requires_grad_(False).div_(divisor) for total in (value, *gradients)]

    def _exact(self, inputs: Sequence[Tensor], reduction: str = "") -> list[Tensor]:
        """Returns value and gradients, of the mean where no reduction is named."""
        inputs = [
            t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t
            for t in inputs
        ]
        options = {"reduction": reduction} if reduction else {}
        value = self.case.ours(*inputs, backend="reference", **options)
        self._backward(value)
        return [value.detach(), *_take_gradients(inputs)]

    def _function(self, who: str) -> Callable[..., Tensor]:
        """Returns ours or a rival's function; raises NotRun where it can't run or be checked."""
        if who not in self._functions:
            self._functions[who] = self._rival(who)
        function = self._functions[who]
        if isinstance(function, NotRun):
            raise function
        return function

    def _rival(self, who: str) -> Callable[..., Tensor] | NotRun:
        if not self.truth:
            return NotRun("too large to be checked in float64")
        try:
            function = rivals.rival(self.case.what, who)
            if who == "compile":  # now, so that a failure tells of the compiler and of nothing else
                for inputs in ([t.detach() for t in self.inputs[0]], self.inputs[0]):
                    value = function(*inputs)
                self._backward(value)
                _take_gradients(self.inputs[0])
        except NotRun as reason:
            return reason
        except Exception as error:
            return _failing(error)
        return function

    def _backward(self, loss: Tensor) -> None:
        """Runs the backward, with an upstream gradient only where underflow demands one."""
        loss.backward(None if self.upstream is None else torch.full_like(loss, self.upstream))

    def _call(self, who: str, passes: str, inputs: Sequence[Tensor]) -> Step:
        """Returns one public call, as a step without arguments; no gradient for a forward alone."""
        function = self._function(who)
        if passes == "fwd":
            inputs = [t.detach() for t in inputs]
            return lambda: [function(*inputs)]

        def step() -> list[Tensor]:
            loss = function(*inputs)
            self._backward(loss)
            return [loss, *_take_gradients(inputs)]

        return step

    def _ops(self, passes: str, inputs: Sequence[Tensor]) -> Step:
        """Returns the native ops that a call dispatches, on the arguments it hands them."""
        with Recorder() as recorder:
            self._backward(self.case.ours(*inputs))
        _take_gradients(inputs)
        if len(recorder.calls) != 2:
            raise NotRun("no native ops for it here")
        (forward, given), (backward, given_back) = recorder.calls
        if passes == "fwd":
            return lambda: forward(*given)[:1]

        def step() -> list[Tensor]:
            value = forward(*given)[0]
            gradients = backward(*given_back)
            return [value, *([gradients] if torch.is_tensor(gradients) else gradients)]

        return step

    def checked(self, run: Run) -> tuple[list[Step], dict[str, float]]:
        """Returns one step per copy of the inputs, and the errors against float64.

        Raises:
            NotRun: where there is no such step; ``Wrong`` where its numbers are not right.
        """
        try:
            steps = self.steps(run)
            errors = self.errors(run, steps[0])
        except NotRun:
            raise
        except Exception as error:
            if run.who == "mtlfast" and not isinstance(error, torch.OutOfMemoryError):
                raise
            raise _failing(error) from error
        for name, off in errors.items():
            if not off <= self.tolerance:
                what = name.removeprefix("error_")
                raise Wrong(f"its {what} is off by {off:.1e}, more than {self.tolerance:.0e}")
        return steps, errors

    def steps(self, run: Run) -> list[Step]:
        """Returns one step per copy of the inputs.

        Raises:
            NotRun: where there is none.
        """
        if run.level == "graph":
            function = self._function(run.who)
            return [_graph(function, inputs) for inputs in self.inputs[:GRAPHS]]
        if run.level == "op":
            return [self._ops(run.passes, inputs) for inputs in self.inputs]
        return [self._call(run.who, run.passes, inputs) for inputs in self.inputs]

    def errors(self, run: Run, step: Step) -> dict[str, float]:
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


def _failing(error: Exception) -> NotRun:
    """Returns what is said of a run that fails."""
    return NotRun(f"fails here: {str(error).partition(chr(10))[0]}")


class Recorder(TorchDispatchMode):
    """Notes the native ops that are dispatched, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "mtlfast":
            self.calls.append((func, tree_map_only(Tensor, Tensor.detach, args)))
        return func(*args, **(kwargs or {}))


def _take_gradients(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the gradients, and leaves none behind."""
    gradients = []
    for tensor in inputs:
        if tensor.requires_grad:
            gradients.append(tensor.grad)
            tensor.grad = None
    return gradients  # type: ignore[return-value]


def _graph(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Step:
    """Returns the replay of one captured call."""
    leaves = [t for t in inputs if t.requires_grad]
    return graphed(lambda: torch.autograd.grad(function(*inputs), leaves))


def _error(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Returns the norm of the differences over the norm of the truth; 0 for nothing but zeros."""
    apart = size = 0.0
    for one, exact in zip(found, truth, strict=True):
        parts = (t.detach().reshape(-1).split(AT_ONCE) for t in (one, exact))
        for some, right in zip(*parts, strict=True):
            apart += float((some.double() - right).norm() ** 2)
            size += float(right.norm() ** 2)
    if not apart:
        return 0.0
    return (apart / size) ** 0.5 if size else float("inf")
