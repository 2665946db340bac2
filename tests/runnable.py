"""What the cases of every loss family share: their random numbers, and how gradients are taken."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mtlfast.ops.catalogue import LOSSES, REDUCTIONS


class Runnable:
    """A case: named inputs of any dtype on any device, run with any reduction and backend.

    `inputs(dtype, device)` returns an object with `named()`, `replace(named)`, `map(change)` and
    `double()`; `values(inputs, **options)` the outputs by name. Floating outputs have gradients;
    what `CONSTANT` lists gets none.
    """

    REDUCTIONS: tuple[str, ...]
    CONSTANT: tuple[str, ...] = ()
    MULTIPLIERS: tuple[str, ...] = ()  # what elements are multiplied by
    values: Callable[..., dict[str, Tensor]]

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(str(self).encode()))

    def leaves(self, inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Returns the inputs, detached, and those among them that get a gradient."""
        inputs = inputs.map(torch.Tensor.detach)
        leaves = {
            name: tensor.requires_grad_()
            for name, tensor in inputs.named().items()
            if tensor.is_floating_point() and name not in self.CONSTANT
        }
        return inputs, leaves

    def outputs(self, inputs: Any, **options: Any) -> list[Tensor]:
        """Returns the floating outputs."""
        values = self.values(inputs, **options).values()
        return [value for value in values if value.is_floating_point()]

    def gradients(self, inputs: Any, **options: Any) -> dict[str, Tensor]:
        """Returns every floating tensor's gradient, under a random gradient of all outputs."""
        inputs, leaves = self.leaves(inputs)
        outputs = self.outputs(inputs, **options)
        upstream = [self.upstream(output) for output in outputs]
        grads = torch.autograd.grad(outputs, list(leaves.values()), upstream)
        return dict(zip(leaves, grads, strict=True))

    def results(self, inputs: Any, **options: Any) -> dict[str, Tensor]:
        """Returns all outputs, and as "d name" the gradients, under a random one of the outputs."""
        inputs, leaves = self.leaves(inputs)
        values = self.values(inputs, **options)
        outputs = [value for value in values.values() if value.is_floating_point()]
        grads = torch.autograd.grad(
            outputs, list(leaves.values()), [self.upstream(output) for output in outputs]
        )
        found = {f"d {name}": grad for name, grad in zip(leaves, grads, strict=True)}
        return {name: t.detach() for name, t in values.items()} | found

    def upstream(self, output: Tensor) -> Tensor:
        """Returns a random gradient of few enough bits for every dtype."""
        eighths = torch.randint(-16, 17, output.shape, generator=self.generator())
        return (eighths / 8).to(output)

    def function(self, inputs: Any, **options: Any) -> tuple[Callable[..., Any], list[Tensor]]:
        """Returns a function of the leaves alone, for gradcheck, and the leaves."""
        inputs, leaves = self.leaves(inputs)

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = {**inputs.named(), **dict(zip(leaves, tensors, strict=True))}
            return tuple(self.outputs(inputs.replace(given), **options))

        return function, list(leaves.values())


def numbered(loss: str, params: list[float], reduction: str) -> tuple[int, list[float], int]:
    """Returns a loss, its parameters and a reduction as ops take them."""
    return LOSSES[loss].number, params, REDUCTIONS.index(reduction)


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """Returns the same values over other strides."""
    if layout == "contiguous" or tensor.dim() != 2:
        return tensor
    if layout == "transposed":
        return tensor.t().contiguous().t()
    if layout == "apart":
        return torch.cat([tensor, tensor.flip(1)], 1)[:, : tensor.shape[1]]
    return tensor.repeat_interleave(2, dim=1)[:, ::2]
