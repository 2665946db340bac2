"""What a type checker is told of the pointwise losses: `return_tasks` decides what comes back.

Their signatures stand where they are defined, and only there. Overloads would spell each of them
twice more, so here is one for all: the default call keeps a loss's own parameters, and a call that
names `return_tasks` is checked against the options of all of them together.
"""

from collections.abc import Callable
from typing import (
    Any,
    Literal,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypedDict,
    Unpack,
    cast,
    overload,
)

from torch import Tensor

P = ParamSpec("P")


class TaskLosses(NamedTuple):
    """Per-task means over labelled elements, (T,), and int64 labelled counts, (T,).

    Example:
        >>> import torch
        >>> import mtlfast.functional as MF
        >>> target = torch.tensor([[1.0, 2.0], [3.0, float("nan")]])
        >>> MF.l1_loss(torch.zeros(2, 2), target, return_tasks=True)[1]
        TaskLosses(loss=tensor([2., 2.]), count=tensor([2, 1]))
    """

    loss: Tensor
    count: Tensor  # type: ignore[assignment]  # as every metric library spells it


class Options(TypedDict, total=False):
    """Every keyword of the pointwise losses, save `return_tasks`."""

    input: Tensor
    inputs: Tensor
    target: Tensor
    targets: Tensor
    weight: Tensor | None
    pos_weight: Tensor | None
    size_average: bool | None
    reduce: bool | None
    reduction: str
    alpha: float
    beta: float
    gamma: float
    gamma_neg: float
    gamma_pos: float
    clip: float
    eps: float
    label_smoothing: float
    ignore_index: float | None
    mask: Tensor | None
    task_weight: Tensor | None
    sample_weight: Tensor | None
    backend: str


class PointwiseLoss(Protocol[P]):
    """A pointwise loss with parameters P: its loss, and its tasks' losses where asked for."""

    __name__: str
    __doc__: str | None

    # P has `return_tasks` too, hence the overlap with the last: the first that fits counts.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, *given: Any, return_tasks: Literal[True], **options: Unpack[Options]
    ) -> tuple[Tensor, TaskLosses]: ...
    @overload
    def __call__(
        self, *given: Any, return_tasks: Literal[False], **options: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, *given: Any, return_tasks: bool, **options: Unpack[Options]
    ) -> Tensor | tuple[Tensor, TaskLosses]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor: ...


def with_tasks(
    function: Callable[P, Tensor | tuple[Tensor, TaskLosses]],
) -> PointwiseLoss[P]:
    """Returns the function itself, under the type above."""
    return cast(PointwiseLoss[P], function)
