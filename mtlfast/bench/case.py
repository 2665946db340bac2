"""What a timed case is, whatever its family, and what is timed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import mtlfast.functional as MF

__all__ = ["PASSES", "Case", "NotRun", "Run", "runs"]

PASSES = ("fwd", "fwd+bwd")
Function = Callable[..., Tensor]


class NotRun(Exception):
    """A run that can't be, or isn't worth being, timed; the message says why."""


@dataclass(frozen=True)
class Run:
    """What is timed of a case.

    Attributes:
        who: "mtlfast" or a rival.
        level: "call" (the public function and a plain backward), "op" (the ops that such a call
            dispatches, on prepared arguments) or "graph" (the replay of a captured CUDA graph).
        passes: of ``PASSES``.
    """

    who: str
    level: str
    passes: str


@dataclass(frozen=True)
class Case:
    """One problem: a loss of ``mtlfast.functional`` at a shape, and the rivals that solve it too.

    Attributes:
        loss: its name.
        rows: N.
        width: T tasks or D dimensions.
        dtype: of logits or embeddings.
        rivals: names, as ``rivals.py`` has them.
        quick: whether ``--quick`` runs it too.
        gpu_only: whether it is too large for a CPU.
        passes: which are timed.
    """

    loss: str
    rows: int
    width: int
    dtype: str = "float32"
    rivals: tuple[str, ...] = ()
    quick: bool = False
    gpu_only: bool = False
    passes: tuple[str, ...] = PASSES

    levels: ClassVar[tuple[str, ...]] = ("op", "call")
    apart: ClassVar[bool] = True  # whether a row's share of the mean is its own
    slack: ClassVar[int] = 1  # how many times the usual error is still rounding

    @property
    def family(self) -> str:
        """The family of the loss."""
        return MF.LOSSES[self.loss].family

    @property
    def shape(self) -> str:
        """The shape as the command line takes it."""
        return f"{self.rows}x{self.width}"

    @property
    def what(self) -> str:
        """The loss and its form: what a rival must compute."""
        return self.loss

    @property
    def data(self) -> str:
        """What the inputs are, in a few words."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What tells this case from all others."""
        return f"{self.what} {self.shape} {self.dtype} {self.data}"

    @property
    def itemsize(self) -> int:
        """Bytes of an element of the logits or embeddings."""
        return getattr(torch, self.dtype).itemsize

    @property
    def elements(self) -> int:
        """Elements of the logits or embeddings, which is also what the gradient has."""
        return self.rows * self.width

    @property
    def input_bytes(self) -> int:
        """Bytes of all inputs."""
        return self.elements * self.itemsize

    @property
    def truth_bytes(self) -> int:
        """Bytes that the specification needs in float64, with its gradients, at most."""
        return 240 * self.elements

    def divisor(self, *tensors: Tensor) -> Tensor | int:
        """Returns the share of some rows, each apart, in what the mean divides their sum by."""
        raise NotImplementedError

    def bytes_moved(self, passes: str) -> int:
        """Returns the bytes that must move: read; for the backward read again, and write."""
        if passes == "fwd":
            return self.input_bytes
        return 2 * self.input_bytes + self.elements * self.itemsize

    def inputs(self, device: str) -> tuple[Tensor, ...]:
        """Returns fresh inputs; those that ask for a gradient come first."""
        raise NotImplementedError

    def ours(self, *tensors: Tensor, **options: object) -> Tensor:
        """Calls our public function."""
        return getattr(MF, self.loss)(*tensors, **options)


def runs(case: Case, device: str) -> list[Run]:
    """Returns the runs of a case, pass by pass: our call, our ops, and every rival's call."""
    found = []
    for passes in case.passes:
        found += [Run("mtlfast", level, passes) for level in ("call", "op") if level in case.levels]
        found += [Run(who, "call", passes) for who in case.rivals]
    if device == "cuda" and "compile" in case.rivals:
        found += [Run(who, "graph", case.passes[-1]) for who in ("mtlfast", "compile")]
    return found
