"""Tasks: which output is compared with which labels, by which loss, and how it is scored."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchmetrics.functional
from torch import Tensor

import mtlfast.functional as MF

__all__ = ["Scores", "Task", "check_tasks", "task_names"]

BINARY = {
    "binary_cross_entropy_with_logits",
    "sigmoid_focal_loss",
    "asymmetric_loss",
    "multilabel_soft_margin_loss",
}
MULTICLASS = {"cross_entropy", "multi_margin_loss", "nll_loss"}
REGRESSION = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "binary": torch.sigmoid,
    "multiclass": functools.partial(torch.softmax, dim=1),
    "value": lambda output: output,
}
Scores = dict[str, dict[str, Any]]
NEEDS_TWO_CLASSES = {"auroc", "average_precision", "roc", "specificity_at_sensitivity"}


class Task:
    """One learned quantity, or a group of T of them that share an output and one fused loss call.

    The loss of task t over one optimizer step is ``S_t / d_t``: the sum over its labelled elements
    divided by ``normalizer``. A missing label is NaN in a floating target, and a negative integer
    in any loss but a regression (mse, l1, smooth_l1, huber).

    Args:
        name_or_names: a name, or the names of the T columns of the output.
        output: the head of the model that is compared, (N, T); (N, C) for a classification in C
            classes.
        target: the key of the labels in the data set's target mapping, (N,) or (N, T).
        loss: one of ``mtlfast.functional``'s pointwise losses or its name (a group is one fused
            call); the name of a ``torch.nn.functional`` loss (called with ``reduction="none"``); or
            any callable ``loss(output, target)`` returning unreduced values. Keyword arguments:
            ``functools.partial``.
        weight: a static weight, on top of what the trainer's weighting decides.
        normalizer: ``"labelled"`` divides by the number of labelled elements, ``"rows"`` by the
            number of rows, labelled or not, and a number by itself.
        metrics: names of torchmetrics functions, as ``"accuracy"``, ``"auroc"``, ``"f1_score"``,
            ``"mean_absolute_error"``, or callables ``metric(prediction, target)``. Binary losses
            are scored on probabilities (M,), multi-class ones on probabilities (M, C), others on
            the output.
        auxiliary: whether the head only helps training and is left out of ``Trainer.predict``.

    Raises:
        ValueError: for repeated or no names, an unknown loss, normalizer or metric, or a bad
            weight.

    Example:
        >>> task = Task(["even", "prime"], output="flags", target="flags",
        ...             loss="binary_cross_entropy_with_logits", metrics=["accuracy"])
        >>> task.counts({"flags": torch.tensor([[1, -1], [0, 1]])})
        tensor([2, 1])
    """

    def __init__(
        self,
        name_or_names: str | Sequence[str],
        *,
        output: str,
        target: str,
        loss: str | Callable[..., Any],
        weight: float = 1.0,
        normalizer: str | float = "labelled",
        metrics: Sequence[str | Callable[[Tensor, Tensor], Any]] = (),
        auxiliary: bool = False,
    ) -> None:
        names = [name_or_names] if isinstance(name_or_names, str) else name_or_names
        self.names: tuple[str, ...] = tuple(names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"a task needs different names, at least one; got {self.names}.")
        if not weight >= 0 or weight == float("inf"):
            raise ValueError(f"weight must be finite and not negative; got {weight}.")
        if normalizer not in ("labelled", "rows") and not (
            isinstance(normalizer, int | float) and normalizer > 0
        ):
            wanted = "'labelled', 'rows' or a positive number"
            raise ValueError(f"normalizer must be {wanted}; got {normalizer!r}.")
        self.output, self.target, self.weight = output, target, float(weight)
        self.normalizer, self.auxiliary = normalizer, auxiliary
        self.loss, self.loss_name = _resolve(loss)
        self.fused = "return_tasks" in inspect.signature(self.loss).parameters
        families = {"binary": BINARY, "multiclass": MULTICLASS}
        self.kind = next((kind for kind, of in families.items() if self.loss_name in of), "value")
        if self.kind == "multiclass" and len(self.names) > 1:
            raise ValueError(
                f"{self.loss_name} is one task, not {len(self.names)}; use a Task for each."
            )
        self.metrics = {_name(metric): _metric(metric, self.kind) for metric in metrics}

    def __repr__(self) -> str:
        return f"Task({', '.join(self.names)})"

    def settings(self) -> dict[str, Any]:
        """Returns what the task was made with, as JSON can hold it."""
        shown = ("output", "target", "weight", "normalizer", "auxiliary")
        options = getattr(self.loss, "keywords", {})
        return {
            "names": list(self.names),
            "loss": ", ".join(
                [self.loss_name, *(f"{key}={value}" for key, value in options.items())]
            ),
            "metrics": list(self.metrics),
            **{name: getattr(self, name) for name in shown},
        }

    def labelled(self, target: Tensor) -> Tensor:
        """Returns which elements of ``target`` hold a label: bool, of its shape.

        The target of a multi-class loss may be class probabilities (N, C): then one bool for each
        row.
        """
        if target.is_floating_point():
            return ~target.isnan().any(1) if self.kind == "multiclass" else ~target.isnan()
        if self.loss_name in REGRESSION:
            return torch.ones_like(target, dtype=torch.bool)
        return target >= 0

    def counts(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Returns the number of labelled elements of each task: (T,) int64."""
        return self.labelled(targets[self.target]).reshape(-1, len(self.names)).sum(0)

    def sums(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Returns the loss of each task summed over its labelled elements: (T,), with gradient.

        Args:
            outputs: the model's outputs by head, (N, T) or (N, C).
            targets: the labels by key.
        """
        output, target, columns = outputs[self.output], targets[self.target], len(self.names)
        if self.fused:
            output, target = output.reshape(-1, columns), target.reshape(-1, columns)
            _, tasks = self.loss(output, target, return_tasks=True)
            return tasks.loss * tasks.count
        present = self.labelled(target)
        if self.kind == "multiclass":
            wide = present.unsqueeze(1)
            target = torch.where(wide if target.is_floating_point() else present, target, 0)
        else:
            wide = present = present.reshape(output.shape)
            target = torch.where(present, target.reshape(output.shape), 0)
        values = self.loss(torch.where(wide, output, 0), target)
        return torch.where(present, values, 0).reshape(-1, columns).sum(0)

    def score(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Scores:
        """Returns each task's mean ``loss``, labelled ``count`` and ``metrics`` on a data set.

        What is not defined (no labels, or one class where two are needed) is None.
        """
        output, target = outputs[self.output], targets[self.target]
        present, prediction = self.labelled(target), ACTIVATIONS[self.kind](output.float())
        if self.kind == "multiclass":
            target = target.argmax(1) if target.is_floating_point() else target
            columns = [(prediction.movedim(1, -1)[present], target[present])]
        else:
            tables = [part.reshape(-1, len(self.names)) for part in (prediction, target, present)]
            unbound = zip(*(part.unbind(1) for part in tables), strict=True)
            columns = [(guess[here], truth[here]) for guess, truth, here in unbound]
        counts = self.counts(targets)
        means = (self.sums(outputs, targets) / counts).tolist()
        return {
            name: {
                "loss": mean if count else None,
                "count": count,
                "metrics": {key: _value(metric, *column) for key, metric in self.metrics.items()},
            }
            for name, mean, count, column in zip(
                self.names, means, counts.tolist(), columns, strict=True
            )
        }


def task_names(tasks: Sequence[Task]) -> list[str]:
    """Returns the names of all tasks in order: the order of every (T,) vector of a run."""
    return [name for task in tasks for name in task.names]


def check_tasks(tasks: Sequence[Task], heads: Sequence[str]) -> None:
    """Checks that the tasks have names of their own and outputs that the model has.

    Raises:
        ValueError: where they have not.
    """
    names = task_names(tasks)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"tasks must have different names, at least one; got {names}.")
    for task in tasks:
        if task.output not in heads:
            raise ValueError(f"{task} needs a head {task.output!r}; the model has {list(heads)}.")


def _resolve(loss: str | Callable[..., Any]) -> tuple[Callable[..., Any], str]:
    """Returns the function to call and its name; torch's losses come bound to reduction="none"."""
    if not isinstance(loss, str):
        return loss, _name(loss)
    if loss in MF.__all__:
        return getattr(MF, loss), loss
    if not hasattr(F, loss):
        raise ValueError(
            f"loss must be a callable or the name of a loss in mtlfast.functional or "
            f"torch.nn.functional; got {loss!r}."
        )
    return functools.partial(getattr(F, loss), reduction="none"), loss


def _name(function: Any) -> str:
    """Returns the name of a function, a functools.partial of one, or an object's class."""
    if isinstance(function, str):
        return function
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _metric(
    metric: str | Callable[[Tensor, Tensor], Any], kind: str
) -> Callable[[Tensor, Tensor], Any]:
    """Returns a function of (prediction, target), from torchmetrics where it has a name."""
    if not isinstance(metric, str):
        return metric
    of_kind = getattr(torchmetrics.functional.classification, f"{kind}_{metric}", None)
    function = of_kind or (
        getattr(torchmetrics.functional, metric, None) if kind == "value" else None
    )
    if function is None:
        raise ValueError(f"torchmetrics has no metric {metric!r} for a {kind} task.")

    def compute(prediction: Tensor, target: Tensor) -> Any:
        if of_kind is None:
            return function(prediction, target)
        target = target.long()
        if metric in NEEDS_TWO_CLASSES and len(target.unique()) < 2:
            return None
        if kind == "binary":
            return function(prediction, target)
        options = {"average": "micro"} if metric == "accuracy" else {}
        return function(prediction, target, num_classes=prediction.shape[1], **options)

    return compute


def _value(
    metric: Callable[[Tensor, Tensor], Any], prediction: Tensor, target: Tensor
) -> float | None:
    """Returns a metric as a number, None where there is nothing to score or it is not defined."""
    value = metric(prediction, target) if len(target) else None
    return None if value is None or math.isnan(value) else float(value)
