"""Metrics as a Task reports them: torchmetrics' numbers, and None where there is nothing to say.

torchmetrics guesses whether it was given logits, counts a class that never occurs as 0 in a mean of
AUROCs, and answers 0 or 1 where only one class is labelled. Here binary and multi-class metrics get
probabilities; whether a metric is defined depends on the labels alone, so no model can avoid a bad
score; and what is not defined is None. torchmetrics is imported with the first metric that has a
name: it takes as long as torch itself.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Measure", "labelled", "measures", "name_of", "predictions", "takes"]

Given = str | Callable[[Tensor, Tensor], Any]  # a torchmetrics.Metric among them
# Their names without underscores, in lower case: functions and classes alike.
RANKINGS = {"auroc", "averageprecision", "eer", "logauc"}
TWO_CLASSES = RANKINGS | {"cohenkappa", "matthewscorrcoef"}
POSITIVES = {"f1score", "fbetascore", "jaccardindex", "precision", "recall"}
NEGATIVES = {"negativepredictivevalue", "specificity"}
VARIANCE = {
    "concordancecorrcoef",
    "explainedvariance",
    "kendallrankcorrcoef",
    "pearsoncorrcoef",
    "r2score",
    "relativesquarederror",
    "spearmancorrcoef",
}
PROBES: dict[str, tuple[list[Any], list[Any]]] = {
    "binary": ([0.3, 0.6, 0.4, 0.8], [0, 1, 0, 1]),
    "multiclass": ([[0.7, 0.3], [0.4, 0.6], [0.6, 0.4]], [0, 1, 1]),
    "value": ([0.5, 1.0, 3.0, 2.0], [0.5, 2.0, 3.0, 1.0]),
}


class Measure:
    """One metric of a task: called with predictions and labels, it returns a number or None.

    Args:
        metric: the name of a torchmetrics function without its ``binary_`` or ``multiclass_``; a
            callable ``metric(prediction, target)``; or a torchmetrics Metric, which is copied for
            each call and stays as it is.
        kind: ``"binary"``, ``"multiclass"`` or ``"value"``.

    Raises:
        ValueError: for an unknown name, or one that needs more than predictions and labels or
            gives more than a number.

    Example:
        >>> auroc = Measure("auroc", "binary")
        >>> auroc(torch.tensor([0.2, 0.9, 0.4]), torch.tensor([0, 1, 1]))
        1.0
        >>> print(auroc(torch.tensor([0.2, 0.9]), torch.tensor([1, 1])))
        None
    """

    def __init__(self, metric: Given, kind: str) -> None:
        self.name, self.kind, self.options = name_of(metric), kind, dict[str, Any]()
        named = isinstance(metric, str)
        self.function: Any = _find(metric, kind) if isinstance(metric, str) else metric
        base = _base(self.function)
        module = type(base) if _is_metric(base) else base
        theirs = getattr(module, "__module__", "").split(".")[0] == "torchmetrics"
        self.quiet = theirs or _is_metric(base)
        short = name_of(base).lower().replace("_", "")
        short = short.removeprefix("binary").removeprefix("multiclass")
        self.rule = short if theirs else ""
        self.fills = named and kind == "multiclass"
        if self.fills and short == "accuracy":
            self.options["average"] = "micro"
        self.per_class = kind == "multiclass" and self.rule in RANKINGS and self._averages(named)
        if self.per_class:
            self.options["average"] = None
        if named:
            self._try()
            # The probe has passed, and what comes next are probabilities and labels of ours.
            if takes(self.function, "validate_args"):
                self.options["validate_args"] = False

    def __call__(self, prediction: Tensor, target: Tensor) -> float | None:
        """Returns the metric of labelled predictions, or None where it is not defined.

        Args:
            prediction: (M,) probabilities of a binary task, (M, C) of a multi-class one, else
                (M, ...) outputs.
            target: (M,) class indices, or (M, ...) values.

        Raises:
            ValueError: where the metric is not one number.
        """
        if not self._defined(target) or prediction.isnan().any():
            return None
        with warnings.catch_warnings():
            if self.quiet:  # torchmetrics would warn of what is answered by None
                warnings.simplefilter("ignore", UserWarning)
            value = self._compute(prediction, target)
        if self.per_class:
            value = value[target.unique()].mean()
        if value is None:
            return None
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"metric {self.name!r} must give one number; got {got}.") from None
        return number if math.isfinite(number) else None

    def _compute(self, prediction: Tensor, target: Tensor) -> Any:
        if not _is_metric(self.function):
            classes = {"num_classes": prediction.shape[1]} if self.fills else {}
            return self.function(prediction, target, **classes, **self.options)
        metric = self.function.clone().to(prediction.device)
        # Every process has the whole data: nothing is to be gathered.
        metric.distributed_available_fn = lambda: False
        if self.per_class:
            metric.average = None
        metric.reset()
        metric.update(prediction, target)
        return metric.compute()

    def _defined(self, target: Tensor) -> bool:
        """Whether the labels, whatever is predicted, give the metric something to measure."""
        if not len(target):
            return False
        several = bool((target != target[0]).any())
        if self.rule in TWO_CLASSES or (self.rule in VARIANCE and self.kind == "value"):
            return several
        if self.kind == "binary" and self.rule in POSITIVES:
            return bool((target > 0).any())
        if self.rule in NEGATIVES:
            return bool((target <= 0).any()) if self.kind == "binary" else several
        return True

    def _averages(self, named: bool) -> bool:
        """Whether the metric is a plain mean over classes."""
        if named:
            return True
        if _is_metric(self.function):
            return getattr(self.function, "average", None) == "macro"
        given = getattr(self.function, "keywords", {}).get("average")
        default = inspect.signature(_base(self.function)).parameters.get("average")
        return (given or getattr(default, "default", None)) == "macro"

    def _try(self) -> None:
        """Checks that a function of torchmetrics takes predictions and labels, gives a number."""
        needs = [
            name
            for name, parameter in list(inspect.signature(self.function).parameters.items())[2:]
            if parameter.default is parameter.empty and name != "num_classes"
        ]
        if needs:
            raise ValueError(
                f"metric {self.name!r} needs {', '.join(needs)}; "
                f"pass functools.partial(torchmetrics' {self.function.__name__}, ...)."
            )
        prediction, target = (torch.tensor(part) for part in PROBES[self.kind])
        try:
            self._compute(prediction, target)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"metric {self.name!r} does not fit a {self.kind} task.") from error
        self(prediction, target)


def measures(metrics: Sequence[Given], kind: str) -> dict[str, Measure]:
    """Returns the metrics of a task by name.

    Raises:
        TypeError: for what is no metric.
        ValueError: as for ``Measure``, and where two metrics share a name.
    """
    for metric in metrics:
        if isinstance(metric, type) or not (isinstance(metric, str) or callable(metric)):
            got = f"the class {metric.__name__}" if isinstance(metric, type) else repr(metric)
            raise TypeError(f"metrics must be names, callables or Metrics; got {got}.")
    names = [name_of(metric) for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"metrics must have different names; got {', '.join(names)}.")
    return {name: Measure(metric, kind) for name, metric in zip(names, metrics, strict=True)}


def predictions(output: Tensor, kind: str) -> Tensor:
    """Returns what metrics see of a head's output: float64 probabilities, or the output itself.

    In float32 all logits above 17 become the probability 1, and a ranking takes them for ties.

    Args:
        output: (N, ...) logits; classes in dimension 1.
        kind: ``"binary"``, ``"multiclass"`` or ``"value"``.
    """
    if kind == "binary":
        return torch.sigmoid(output.double())
    return torch.softmax(output.double(), 1) if kind == "multiclass" else output


def labelled(
    prediction: Tensor, target: Tensor, present: Tensor, kind: str, columns: int
) -> list[tuple[Tensor, Tensor]]:
    """Returns each column's labelled predictions, and labels as metrics want them.

    Args:
        prediction: what ``predictions`` returns.
        target: labels.
        present: which of them, or of their rows, are there.
        kind: as for ``Measure``.
        columns: T.
    """
    if kind == "multiclass":
        soft = target.is_floating_point() and target.dim() > 1
        target = target.argmax(1) if soft else target
        return [(prediction.movedim(1, -1)[present], target[present].long())]
    if target.numel() != prediction.numel():
        if prediction.shape[: present.dim()] != present.shape:  # channels stand between
            prediction = prediction.movedim(1, -1)
        return [(prediction[present], target[present])]
    if present.numel() != target.numel():  # of rows
        present = present.unsqueeze(1).expand(len(target), target[0].numel())
    if kind == "binary":
        target = (target > 0.5).long()
    elif not target.is_floating_point() or target.dtype != prediction.dtype:
        target = target.to(prediction.dtype)
    tables = [part.reshape(-1, columns) for part in (prediction, target, present)]
    unbound = zip(*(part.unbind(1) for part in tables), strict=True)
    return [(guess[here], truth[here]) for guess, truth, here in unbound]


def name_of(function: Any) -> str:
    """Returns the name of a function, of what a functools.partial calls, or of a class."""
    base = _base(function)
    return base if isinstance(base, str) else getattr(base, "__name__", type(base).__name__)


def takes(function: Any, argument: str) -> bool:
    """Whether a function has an argument of that name."""
    return inspect.isfunction(function) and argument in inspect.signature(function).parameters


def _base(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _is_metric(thing: Any) -> bool:
    """Whether it is a Metric of torchmetrics, which is imported then."""
    module = sys.modules.get("torchmetrics")
    return module is not None and isinstance(thing, module.Metric)


def _find(name: str, kind: str) -> Callable[..., Any]:
    """Returns the function of torchmetrics that ``name`` means for a task of this kind."""
    from torchmetrics.functional import classification, regression

    module, full = (classification, f"{kind}_{name}") if kind != "value" else (regression, name)
    if full not in module.__all__:
        raise ValueError(f"torchmetrics has no metric {name!r} for a {kind} task.")
    return getattr(module, full)
