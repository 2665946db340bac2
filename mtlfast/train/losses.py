"""What a Task may be given as its loss, brought to one thing: a sum over the labels there are."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from numbers import Integral
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

import mtlfast.functional as MF
from mtlfast.train.labels import is_number
from mtlfast.train.metrics import name_of
from mtlfast.train.named import function_of, is_of, takes, torch_name
from mtlfast.train.shapes import aligned, along, apart, covers

__all__ = ["Loss"]

Given = str | Callable[..., Any]
KINDS = {
    "binary": {
        "asymmetric_loss",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "multilabel_soft_margin_loss",
        "sigmoid_focal_loss",
    },
    "multiclass": {"cross_entropy", "multi_margin_loss", "nll_loss"},
}
# Of these a negative number is a label like any other.
SIGNED = {
    "hinge_embedding_loss",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "multilabel_margin_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
}
# Labels of these index classes; torch's other losses want them in the dtype of the output.
INDEXED = KINDS["multiclass"] | {"multilabel_margin_loss"}
# Losses of pairs and triplets, and what they are called with: an output is (N, parts, D).
PARTS: dict[str, Callable[[tuple[Tensor, ...], Tensor], tuple[Any, ...]]] = {
    "contrastive_loss": lambda parts, target: (*parts, target),
    "triplet_margin_loss": lambda parts, target: parts,
    "normalized_triplet_loss": lambda parts, target: parts,
    "hierarchical_triplet_loss": lambda parts, target: (parts[0], parts[1:]),
}
IN_BATCH = {"batch_triplet_loss", "batch_contrastive_loss"}


class Loss:
    """A loss as a Task needs it: which labels are there, and its sum over them.

    Args:
        given: a name, a function, a functools.partial or an nn.Module; see ``Task``.
        columns: number of tasks, T.

    Attributes:
        name: of the function.
        kind: what an output is to it: ``"binary"`` logits, ``"multiclass"`` logits or a
            ``"value"``.
        form: what a call returns: ``"tasks"``, a TaskLosses, from labels as they are; ``"values"``,
            one for each label or row; ``"scalar"``, one for all labelled rows; None: not yet known.
        by_row: whether a row of labels is there, or is missing, as a whole.
        elementwise: whether every element of the output has a label of its own.
        indexed: whether labels are class indices.
        ignored: the label that the loss itself leaves out, or None.
        module: the nn.Module that was given, or None. One of torch's comes as a shallow copy that
            does not reduce; its parameters and buffers are those of the given one.

    Raises:
        TypeError: for what cannot be called.
        ValueError: for an unknown name, an option that is not the loss's to decide, or several
            tasks where the loss is one.
    """

    def __init__(self, given: Given, columns: int = 1) -> None:
        base: Any = function_of(given) if isinstance(given, str) else given
        args: tuple[Any, ...] = ()
        options: dict[str, Any] = {}
        if isinstance(base, functools.partial):
            base, args, options = base.func, base.args, dict(base.keywords)
        if isinstance(base, type) or not callable(base):
            got = f"the class {base.__name__}" if isinstance(base, type) else type(base).__name__
            raise TypeError(f"loss must be a callable or the name of one; got {got}.")
        shown = repr(base) if isinstance(base, nn.Module) else name_of(base)
        shown = ", ".join([shown, *(f"{key}={_told(options[key])}" for key in options)])
        self.settings = " ".join(shown.split())
        torchs = isinstance(base, nn.modules.loss._Loss)
        if torchs:
            base = copy.copy(base)
            base.reduction = "none"
        self.module = base if isinstance(base, nn.Module) else None
        twin = getattr(type(base), "function", None)
        function = twin if is_of(twin, "mtlfast.functional") else base
        self.name = torch_name(base) if torchs else name_of(function)
        ours = is_of(function, "mtlfast.functional")
        plain = is_of(function, "torch.nn.functional") and takes(function, "reduction")
        fused = takes(function, "return_tasks")
        self.parted = ours and self.name in PARTS
        if plain or self.parted:
            options["reduction"] = "none"
        if fused:
            options["return_tasks"] = True
        self.call = functools.partial(base, *args, **options)
        self.columns = columns
        self.kind = next((kind for kind, names in KINDS.items() if self.name in names), "value")
        self.form: str | None = "values" if plain or torchs or self.parted else None
        self.form = "tasks" if fused else self.form
        self.indexed = self.name in INDEXED
        self.typed = (plain or torchs) and not self.indexed
        self.elementwise = fused or self.typed
        self.by_row = False
        # Losses of ours on embeddings know their labels' shapes, and say so.
        self.rows_alone = self.parted or (ours and self.name in IN_BATCH)
        if self.rows_alone and not self.parted:
            self.form = "scalar"
        if self.form == "scalar" or self.parted or self.name.startswith("multilabel_"):
            self._take_rows()
        if self.kind == "multiclass" and columns > 1:
            raise ValueError(f"{self.name} is one task, not {columns}; use a Task for each.")
        held = {**getattr(self.module, "options", {}), **options}
        for option, instead in {"task_weight": "the Task's weight", "mask": "NaN labels"}.items():
            if fused and held.get(option, getattr(self.module, option, None)) is not None:
                raise ValueError(f"{self.name} must not hold a {option}; use {instead} instead.")
        self.ignored = held.get("ignore_index", getattr(self.module, "ignore_index", None))
        if not isinstance(self.ignored, Integral | NoneType) or isinstance(self.ignored, bool):
            got = type(self.ignored).__name__
            raise ValueError(f"ignore_index of {self.name} must be a whole number; got {got}.")

    def labelled(self, target: Tensor) -> Tensor:
        """Returns which labels are there: bool of the shape of ``target``, or one for each row.

        Class probabilities (N, C, ...) are one label, (N, ...). Missing is NaN; a negative number
        too in losses of classes, and a negative integer in a callable; and the loss's own mark.
        """
        floating = target.is_floating_point()
        if self._negatives_missing(floating):
            present = target >= 0
        elif floating:
            present = ~target.isnan()
        else:
            present = torch.ones_like(target, dtype=torch.bool)
        if self.kind == "multiclass" and floating and target.dim() > 1:
            return present.all(1)
        if self.ignored is not None:
            present = present & ~is_number(target, self.ignored)
        return present.flatten(1).all(1) if self.by_row and present.dim() > 1 else present

    def hides_negatives(self, target: Tensor) -> bool:
        """Whether -1 is missing in such labels, without anyone having said so."""
        return self._negatives_missing(target.is_floating_point()) and self.ignored != -1

    def _negatives_missing(self, floating: bool) -> bool:
        return self.kind != "value" or not (floating or self.name in SIGNED)

    def sums(self, output: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of each task summed over its labels: (T,), with gradient."""
        if self.kind != "multiclass" and not self.rows_alone:
            output, target = aligned(output, target)
        if self.form == "tasks":
            return self._of_tasks(output, target)
        if self.form == "scalar":
            return self._of_labelled_rows(output, target)
        present = self.labelled(target)
        if self.form is None and not covers(present, output):
            self._take_rows()
            present = self.labelled(target)
        values = self._call(*self._filled(output, target, present))
        form = _form_of(values)
        if form != "values" or values.numel() != present.numel():
            self._learn(form, values, present)
            return self.sums(output, target)
        self.form = form
        present = present.reshape(values.shape)
        return torch.where(present, _wide(values), 0).reshape(-1, self.columns).sum(0)

    def probe(self, output: Tensor, target: Tensor) -> None:
        """Finds out the form of a loss by calling it, or a copy of its module, without gradient."""
        copied = copy.copy(self)
        if self.module is not None:
            copied.call = copy.deepcopy(self.call)
        output, target = apart(output, target)
        devices = [output.device] if output.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what an error tells, or training will
            copied.sums(output, target)
        self.form, self.by_row = copied.form, copied.by_row

    def _call(self, output: Tensor, target: Tensor) -> Any:
        if self.parted:
            return self.call(*PARTS[self.name](output.unbind(1), target))
        return self.call(output, target)

    def _of_tasks(self, output: Tensor, target: Tensor) -> Tensor:
        if self.elementwise:
            width = output.shape[-1] if output.dim() > 1 else 1
            output, target = output.reshape(-1, width), target.reshape(-1, width)
        result = self._call(output, target)
        tasks = result if isinstance(result, MF.TaskLosses) else result[-1]
        sums = tasks.loss * tasks.count
        return sums if len(sums) == self.columns else sums.reshape(-1, self.columns).sum(0)

    def _of_labelled_rows(self, output: Tensor, target: Tensor) -> Tensor:
        """Returns a scalar loss of the labelled rows times their number; the host waits here."""
        present = self.labelled(target)
        seen = output[present]
        if not len(seen):
            return torch.where(along(present, output), output, 0).sum().reshape(1)
        return (_wide(self._call(seen, target[present])) * len(seen)).reshape(1)

    def _filled(self, output: Tensor, target: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Returns output and target with 0 in place of what is missing or has no label."""
        if self.kind == "multiclass":
            wide, narrow = present.unsqueeze(1), present
            if target.dim() > 1 and target.is_floating_point():
                return torch.where(wide, output, 0), target.masked_fill(~wide, 0)
            return torch.where(wide, output, 0), target.masked_fill(~narrow, 0).long()
        target = target.masked_fill(~along(present, target), 0)
        if self.indexed:
            target = target.long()
        if self.typed:
            output = _wide(output)
            target = target.to(output.dtype)
        return torch.where(along(present, output), output, 0), target

    def _learn(self, form: str | None, values: Any, present: Tensor) -> None:
        """Takes note of a form that only a call could tell."""
        by_row = form == "values" and values.shape == present.shape[:1] and not self.by_row
        if not by_row and (form in (None, "values") or self.form is not None):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"loss {self.name} must return a value for each label, {tuple(present.shape)}, "
                f"one for each row, a scalar or TaskLosses; got {got}."
            )
        if by_row or form == "scalar":
            self._take_rows()
        self.form = form

    def _take_rows(self) -> None:
        if self.columns > 1:
            raise ValueError(
                f"loss {self.name} is of whole rows: one task, not {self.columns}; "
                "use a Task for each."
            )
        self.by_row = True


def _form_of(result: Any) -> str | None:
    if isinstance(result, Tensor):
        return "values" if result.dim() else "scalar"
    last = result[-1] if type(result) is tuple and result else result
    return "tasks" if isinstance(last, MF.TaskLosses) else None


def _wide(values: Tensor) -> Tensor:
    """Returns half-precision values as float32, in which sums are kept."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _told(value: Any) -> Any:
    """Returns an option as settings show it, the same in every run."""
    return name_of(value) if callable(value) else value
