"""In-batch losses over a batch that is spread over processes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mtlfast.functional.checks import HALF, check_tensor, fail

__all__ = ["gather_embeddings"]

# torch 2.13 renamed both and warns of the old names; a build without torch.distributed has neither.
_all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(
    dist, "all_gather_into_tensor", None
)
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or getattr(
    dist, "reduce_scatter_tensor", None
)


def gather_embeddings(
    x: Tensor, *, even: bool = False, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Returns the rows of all processes in rank order, (sum n_r, ...), with exact gradients.

    Every process computes the same loss, L, from the rows of all:

        embeddings = gather_embeddings(model(images))          # model: DistributedDataParallel
        loss = MF.batch_contrastive_loss(embeddings, gather_embeddings(labels))
        loss.backward()

    and each optimizer step equals that of one process with the whole batch. Why: let G_r be dL/dx_r
    for the rows x_r of process r. One process would give parameters the gradient
    sum_r (dx_r/dparameters)^T G_r. DistributedDataParallel gives them the mean over W processes of
    (dx_r/dparameters)^T g_r, where g_r is what arrives at x_r, so g_r must be W G_r. The backward
    adds what all W processes have computed for x_r; they computed the same, so the sum is W G_r and
    nothing is left to scale. (The process' own slice alone would give 1/W of the gradient.)

    The sum is right in general: with L_s the loss of process s, the parameters get the gradient of
    the mean of L_s over processes. So losses of the local rows may be added to L, each process may
    take its own rows as anchors against all rows, and parameters that come after the gathering (a
    learned scale, say) are right too. Where nothing averages over processes, divide by W.

    All processes of the group must make the call alike, and all must run backward through it or
    none. Gradients of a half type are added in float32 and rounded once. Double backward works.

    Args:
        x: (n_r, ...) of any dtype; n_r may differ from process to process and be 0. Labels and
            masks are gathered likewise, without gradient.
        even: promises that n_r is the same everywhere. Otherwise the sizes are exchanged first, for
            which the host waits and torch.compile breaks the graph. A broken promise hangs or mixes
            up rows.
        group: the processes to gather from; None: all.

    Returns:
        (sum n_r, ...) of the dtype of x. `x` itself where there is but one process, or no group.

    Raises:
        TypeError, ValueError: where x is no dense tensor with rows, rows differ in their size in
            bytes (unless `even`), or this process is not of the group.

    Example:
        >>> gather_embeddings(torch.tensor([[1.0, 2.0]]))  # without a process group
        tensor([[1., 2.]])
    """
    check_tensor("x", x, None, "x")
    if x.dim() == 0:
        fail("x must have rows, shape (n, ...); got a tensor without dimensions.")
    if not isinstance(even, bool):
        fail(f"even must be True or False; got {type(even).__name__}.", TypeError)
    if dist.is_available() and not (
        group is None
        or isinstance(group, dist.ProcessGroup)
        or group is dist.GroupMember.NON_GROUP_MEMBER
    ):
        fail(f"group must be a ProcessGroup or None; got {type(group).__name__}.", TypeError)
    if not dist.is_available() or not dist.is_initialized():
        return x
    processes = dist.get_world_size(group)
    if processes < 0:
        fail(f"group must contain this process; got one without rank {dist.get_rank()}.")
    if processes == 1:
        return x
    sizes = [len(x)] * processes if even else _exchange_sizes(x, processes, group)
    rows: Tensor = _Gather.apply(x, sizes, group)
    return rows


def _exchange_sizes(x: Tensor, processes: int, group: dist.ProcessGroup | None) -> list[int]:
    """Returns n_r of every process."""
    own = torch.tensor([[len(x), math.prod(x.shape[1:]) * x.element_size()]], device=x.device)
    table = own.new_empty(processes, 2)
    _all_gather(table, own, group=group)
    sizes: list[int]
    sizes, row_bytes = table.t().tolist()
    if len(set(row_bytes)) > 1:
        fail(
            "x must have rows of one shape and dtype on all processes; "
            f"got rows of {row_bytes} bytes."
        )
    return sizes


class _Gather(torch.autograd.Function):
    """(n_r, ...) on every process -> all rows on every process; the transpose of _SumOwn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        largest = max(sizes)
        if len(x) < largest:
            x = torch.cat((x, x.new_zeros(largest - len(x), *x.shape[1:])))
        rows = x.new_empty(len(sizes) * largest, *x.shape[1:])
        if rows.numel():
            # As bytes, since no backend knows every dtype.
            _all_gather(rows.view(torch.uint8), x.contiguous().view(torch.uint8), group=group)
        if min(sizes) == largest:
            return rows
        return torch.cat([part[:n] for part, n in zip(rows.split(largest), sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _SumOwn.apply(grad, ctx.sizes, ctx.group), None, None


class _SumOwn(torch.autograd.Function):
    """All rows on every process -> (n_r, ...), the own rows, added over processes."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, sizes: list[int], group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        rows = grad.float() if grad.dtype in HALF else grad
        if min(sizes) < max(sizes):
            rows = pad_sequence(rows.split(sizes), batch_first=True).flatten(0, 1)
        own = rows.new_empty(max(sizes), *rows.shape[1:])
        if rows.numel():
            _reduce_scatter(own, rows.contiguous(), group=group)
        return own[: sizes[dist.get_rank(group)]].to(grad.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(grad, ctx.sizes, ctx.group), None, None
