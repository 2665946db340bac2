"""Tasks: which output is compared with which labels, by which loss, and how it is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

from torch import Tensor, nn

from mtlfast.functional.checks import check_kinds
from mtlfast.train import labels
from mtlfast.train.adapters import adapt, probe
from mtlfast.train.losses import Loss
from mtlfast.train.metrics import labelled, measures, predictions
from mtlfast.writing import brief

__all__ = ["Scores", "Task", "check_tasks", "task_names"]

Scores = dict[str, dict[str, Any]]
Where = Callable[[int], str]


class Task:
    """One learned quantity, or a group of T of them that share an output and one fused loss call.

    The loss of task t over one optimizer step is ``S_t / d_t``: the sum over its labels divided by
    ``normalizer``; a ``reduction`` of the loss itself plays no part, except in a scalar loss. A
    missing label is NaN; a negative number of any dtype in losses of classes, a negative integer in
    any other but a regression (mse, l1, smooth_l1, huber); or ``ignore_index``. Where it is
    missing, loss and gradient are exactly 0, whatever is predicted.

    A callable ``loss(output, target)`` may be a function, a functools.partial or an nn.Module. Its
    form is found out on a first batch, in ``check_output``, by one or two calls. It returns one of

    * a value for each label, or for each row: (N,). A row of several labels is then labelled if all
      of them are there. The callable sees 0 in place of outputs and labels that are missing, and
      what it makes of them is left out. Labels come in the output's shape where they are as many.
    * a scalar, as ``MF.batch_triplet_loss`` does. It sees the labelled rows alone; to select them
      is the one place in training where the host waits for the device. A scalar is not the sum of
      the scalars of parts: each micro-batch's and each process's counts in proportion to its
      labelled rows, and each sees its own rows only.
    * TaskLosses, or ``(loss, TaskLosses)``, from labels as they are, missing ones included.

    Args:
        name_or_names: a name, or the names of the T columns of the output. A loss of whole rows,
            of classes, and a scalar one have one name.
        output: the head of the model that is compared, (N, T); (N, C, ...) for a classification in
            C classes.
        target: the key of the labels in the data set's target mapping: (N,) or (N, T); class
            indices (N, ...), or class probabilities (N, C, ...), where a NaN hides the row.
        loss: a loss of ``mtlfast.functional`` or ``torch.nn.functional``, or its name, or its
            module; or any callable, see above. A pointwise loss of ours is one fused call for all
            names. ``contrastive_loss`` takes the output as pairs (N, 2, D), triplet losses as
            (N, 3, D). Keyword arguments: ``functools.partial``.
        weight: a static weight, on top of what the trainer's weighting decides.
        normalizer: ``"labelled"`` divides by the number of labels, class weights aside, ``"rows"``
            by the number of rows, labelled or not, and a number by itself.
        metrics: names of torchmetrics functions, as ``"accuracy"``, ``"auroc"``, ``"f1_score"``,
            ``"mean_absolute_error"``; callables ``metric(prediction, target)``; or torchmetrics
            Metrics. They see labelled predictions only: of binary losses probabilities (M,), of
            multi-class ones probabilities (M, C), else the output. Binary labels come as 0 and 1
            (above 0.5), classes as indices. By name, multi-class accuracy is the share of right
            answers (``average="micro"``); others are torchmetrics' mean over classes, rankings as
            auroc over the classes that occur.
        auxiliary: whether the head only helps training and is left out of ``Trainer.predict``.

    Attributes:
        adapter: how the loss is called.
        module: the nn.Module in the loss, or None. Whoever trains it must move it, set its mode and
            give its parameters to the optimizer.

    Raises:
        TypeError: for an argument of another kind.
        ValueError: for repeated or no names, an unknown loss, normalizer or metric, or a bad
            weight.

    Example:
        >>> import torch
        >>> task = Task(["even", "prime"], output="flags", target="flags",
        ...             loss="binary_cross_entropy_with_logits", metrics=["accuracy"])
        >>> task.counts(task.labelled(torch.tensor([[1, -1], [0, 1]])))
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
        metrics: str | Callable[..., Any] | Sequence[Any] = (),
        auxiliary: bool = False,
    ) -> None:
        one = isinstance(name_or_names, str) or not isinstance(name_or_names, Iterable)
        given: Any = [name_or_names] if one else name_or_names
        self.names: tuple[str, ...] = tuple(given)
        metrics = [metrics] if isinstance(metrics, str) or callable(metrics) else metrics
        check_kinds(
            [
                *(("name_or_names", name, str, "a name or several") for name in self.names),
                ("output", output, str, "the name of a head"),
                ("target", target, str, "the name of a target"),
                ("weight", weight, Real, "a number"),
                ("metrics", metrics, Iterable, "a metric or several"),
                ("auxiliary", auxiliary, bool, "True or False"),
            ]
        )
        if not all(self.names) or not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"a task needs different names, at least one; got {self.names}.")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and not negative; got {weight}.")
        real = isinstance(normalizer, int | float) and normalizer is not True
        if not ((real and 0 < float(normalizer) < math.inf) or normalizer in ("labelled", "rows")):
            wanted = "'labelled', 'rows' or a positive number"
            raise ValueError(f"normalizer must be {wanted}; got {normalizer!r}.")
        self.output, self.target, self.weight = output, target, float(weight)
        self.normalizer, self.auxiliary, self.zeros = normalizer, auxiliary, False
        self.loss = Loss(loss, len(self.names))
        self.module: nn.Module | None = self.loss.module
        self.adapter, self.kind = adapt(self.loss), self.loss.kind
        self.metrics = measures(list(metrics), self.kind)

    def __repr__(self) -> str:
        return f"Task({', '.join(self.names)})"

    def settings(self) -> dict[str, Any]:
        """Returns what the task was made with, as JSON can hold it."""
        shown = ("output", "target", "weight", "normalizer", "auxiliary")
        told = {name: getattr(self, name) for name in shown}
        metrics = list(self.metrics)
        return {"names": list(self.names), "loss": self.loss.settings, "metrics": metrics, **told}

    def labelled(self, target: Tensor) -> Tensor:
        """Returns which labels are there: bool of the shape of ``target``, or one for each row.

        Class probabilities (N, C, ...) are one label, (N, ...).
        """
        return self.adapter.labelled(target)

    def counts(self, present: Tensor) -> Tensor:
        """Returns the number of labels of each task: (T,) int64, of what ``labelled`` returns."""
        return present.reshape(-1, len(self.names)).sum(0)

    def scores(
        self,
        output: Tensor | None,
        target: Tensor | None,
        sums: Sequence[float],
        counts: Sequence[int],
    ) -> Scores:
        """Returns each task's mean ``loss``, number of labels ``count``, and ``metrics``.

        What is not defined (no labels, or one class where two are needed) is None.

        Args:
            output: what the head gives for a whole data set, or None to leave metrics out.
            target: its labels.
            sums: (T,) losses summed over labels.
            counts: (T,) numbers of labels.
        """
        columns: list[Any] = [None] * len(self.names)
        if output is not None and target is not None and self.metrics:
            predicted = output.double() if self.loss.certain else predictions(output, self.kind)
            present = self.labelled(target)
            columns = labelled(predicted, target, present, self.kind, len(self.names))
        return {
            name: {
                "loss": total / count if count else None,
                "count": count,
                "metrics": {key: m(*column) for key, m in self.metrics.items() if column},
            }
            for name, total, count, column in zip(self.names, sums, counts, columns, strict=True)
        }

    def check_labels(
        self, target: Tensor, classes: int | None = None, where: Where = labels.row_of
    ) -> None:
        """Checks that labels are of the values that the loss takes; meant for the host.

        Args:
            target: labels, missing ones among them.
            classes: the number of classes, where the task has classes.
            where: names a row in messages.

        Raises:
            ValueError: for a class index that is too large or not whole, or a binary label outside
                [0, 1].
        """
        binary = self.kind == "binary"
        soft = self.kind == "multiclass" and target.is_floating_point() and target.dim() > 1
        if soft or not (binary or self.loss.indexed):
            return
        wrong = target > 1 if binary else labels.no_index(target, classes)
        found = labels.first(target, wrong & labels.along(self.labelled(target), target))
        if found is None:
            return
        row, value = found
        if binary:
            missing = "NaN or negative" if target.is_floating_point() else "negative"
            wanted = f"labels from 0 to 1, {missing} where missing"
        else:
            wanted = "class indices" if value.lstrip("-").isdigit() else "whole class indices"
            if classes is not None:
                wanted += f" below {classes}, the width of head {self.output!r}"
        wanted = f"target {self.target!r} must hold {wanted}"
        raise ValueError(f"{wanted}; got {value} in {where(row)}.")

    def check_output(self, output: Tensor, target: Tensor, where: Where = labels.row_of) -> None:
        """Checks that the head and the labels of one small batch fit, before training does.

        A callable loss is called once more for it, without gradient; a module as a copy.

        Raises:
            ValueError: where they do not, in one line.
        """
        head, count = f"head {self.output!r}", len(target)
        if not isinstance(output, Tensor) or not output.dim() or len(output) != count:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"{head} must give {count} rows, as many as the labels; got {got}.")
        if not count:
            return
        if self.kind == "multiclass":
            self._check_classes(output, target)
        else:
            width, columns = output.numel() // count, target.numel() // count
            if len(self.names) > 1:
                _check_columns(f"target {self.target!r}", columns, len(self.names), f"for {self}")
                _check_columns(head, width, len(self.names), f"for {self}")
            elif self.loss.elementwise:
                _check_columns(head, width, columns, f"for {self}, as target {self.target!r} has")
        classes = output.shape[1] if output.dim() > 1 else 1
        self.check_labels(target, classes, where)
        try:
            self.adapter = probe(self.adapter, output, target)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            shapes = f"an output {tuple(output.shape)} and labels {tuple(target.shape)}"
            raise ValueError(f"{self}, on {shapes}: {brief(error)}.") from error

    def _check_classes(self, output: Tensor, target: Tensor) -> None:
        indices = output.shape[:1] + output.shape[2:]
        floating = target.is_floating_point()
        soft = floating and target.shape == output.shape
        # More than one dimension of floats would be taken for probabilities.
        whole = target.shape == indices and not (floating and target.dim() > 1)
        if output.dim() < 2 or not (soft or whole):
            whole_numbers = " of integers" if target.shape == indices else ""
            raise ValueError(
                f"target {self.target!r} must have shape {tuple(indices)}{whole_numbers}, for head "
                f"{self.output!r} of shape {tuple(output.shape)}; got {tuple(target.shape)}."
            )


def task_names(tasks: Sequence[Task]) -> list[str]:
    """Returns the names of all tasks in order: the order of every (T,) vector of a run."""
    return [name for task in tasks for name in task.names]


def check_tasks(tasks: Sequence[Task], heads: Sequence[str]) -> None:
    """Checks that the tasks have names of their own, outputs that the model has, and weight.

    Raises:
        ValueError: where they have not.
    """
    names = task_names(tasks)
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        got = f"{', '.join(twice)} twice" if twice else "none"
        raise ValueError(f"tasks must have different names, at least one; got {got}.")
    for task in tasks:
        if task.output not in heads:
            raise ValueError(f"{task} needs a head {task.output!r}; the model has {list(heads)}.")
    if not any(task.weight for task in tasks):
        raise ValueError("weight must be positive for one task at least; all are 0.")


def _check_columns(what: str, got: int, wanted: int, why: str) -> None:
    if got != wanted:
        columns = "1 column" if wanted == 1 else f"{wanted} columns"
        raise ValueError(f"{what} must have {columns} {why}; got {got}.")
