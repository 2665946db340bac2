"""What a Task may be given as its loss, and what is known of it before it is called."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from numbers import Integral
from types import NoneType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mtlfast.functional as MF
from mtlfast.train.labels import is_number
from mtlfast.train.metrics import name_of, takes

__all__ = ["Loss"]

Given = str | Callable[..., Any]


class Known(NamedTuple):
    """What is known of a loss before it is called; see ``Loss``."""

    name: str
    kind: str = "value"
    form: str | None = None
    indexed: bool = False
    signed: bool = False
    certain: bool = False


# torch's modules, and what is known of the functions that they call.
TORCHS: dict[type[nn.Module], Known] = {
    nn.BCELoss: Known("binary_cross_entropy", "binary", "elementwise", certain=True),
    nn.BCEWithLogitsLoss: Known("binary_cross_entropy_with_logits", "binary", "elementwise"),
    nn.MultiLabelSoftMarginLoss: Known("multilabel_soft_margin_loss", "binary", "rowwise"),
    nn.CrossEntropyLoss: Known("cross_entropy", "multiclass", "elementwise", indexed=True),
    nn.MultiMarginLoss: Known("multi_margin_loss", "multiclass", "elementwise", indexed=True),
    nn.NLLLoss: Known("nll_loss", "multiclass", "elementwise", indexed=True),
    nn.MultiLabelMarginLoss: Known(
        "multilabel_margin_loss", form="rowwise", indexed=True, signed=True
    ),
    nn.HingeEmbeddingLoss: Known("hinge_embedding_loss", form="elementwise", signed=True),
    nn.HuberLoss: Known("huber_loss", form="elementwise", signed=True),
    nn.L1Loss: Known("l1_loss", form="elementwise", signed=True),
    nn.MSELoss: Known("mse_loss", form="elementwise", signed=True),
    nn.SmoothL1Loss: Known("smooth_l1_loss", form="elementwise", signed=True),
    nn.SoftMarginLoss: Known("soft_margin_loss", form="elementwise", signed=True),
}
# Of our families.
FORMS = {"pointwise": "fused", "rows": "rowwise", "inbatch": "scalar"}


class Loss:
    """A loss as it was given: which labels are there, and what else can be told without a call.

    Args:
        given: a name, a function, a functools.partial or an nn.Module; see ``Task``.
        columns: number of tasks, T.

    Attributes:
        call: what computes it.
        name: of the function.
        settings: the loss and its options, in words.
        kind: what an output is to it: ``"binary"`` logits, ``"multiclass"`` logits or a
            ``"value"``.
        form: its adapter, ``"fused"``, ``"elementwise"``, ``"rowwise"`` or ``"scalar"``; None: only
            a call can tell.
        elementwise: whether every element of the output has a label of its own.
        indexed: whether labels are class indices; other losses of torch's want them in the dtype of
            the output.
        signed: whether a negative number is a label like any other.
        typed: whether labels must be in the dtype of the output.
        shaped: whether it knows the shape of its labels, and says so.
        certain: whether an output is a probability already.
        ignored: the label that the loss itself leaves out, or None.
        module: the nn.Module that was given, or None. One of torch's comes as a shallow copy that
            does not reduce; its parameters and buffers are those of the given one.

    Raises:
        TypeError: for what cannot be called.
        ValueError: for an unknown name, an option that is not the loss's to decide, or several
            tasks where the loss is one.
    """

    def __init__(self, given: Given, columns: int = 1) -> None:
        base: Any = _function_of(given) if isinstance(given, str) else given
        args: tuple[Any, ...] = ()
        options: dict[str, Any] = {}
        if isinstance(base, functools.partial):
            base, args, options = base.func, base.args, dict(base.keywords)
        if isinstance(base, type) or not callable(base):
            got = f"the class {base.__name__}" if isinstance(base, type) else type(base).__name__
            raise TypeError(f"loss must be a callable or the name of one; got {got}.")
        shown = repr(base) if isinstance(base, nn.Module) else name_of(base)
        shown = ", ".join(
            [shown, *(f"{key}={name_of(v) if callable(v) else v}" for key, v in options.items())]
        )
        self.settings = " ".join(shown.split())
        self.columns = columns
        # A module of ours has the function that it calls; torch.compile and decorators wrap one.
        function: Any = inspect.unwrap(getattr(type(base), "function", base))
        ours = next((one for one in MF.LOSSES.values() if getattr(MF, one.name) is function), None)
        if ours is None:
            known = _of_torchs(base)
        else:
            kind = "binary" if ours.classification else "value"
            signed = ours.family == "pointwise" and not ours.classification
            known = Known(ours.name, kind, FORMS.get(ours.family), signed=signed)
        self.name, self.kind, self.form, self.indexed, self.signed, self.certain = known
        module = isinstance(base, nn.modules.loss._Loss)
        plain = module or (takes(function, "reduction") and function.__module__ == F.__name__)
        self.parted = _tensors(function) if ours and ours.family == "rows" else None
        fused = self.form == "fused"
        self.typed = plain and not self.indexed
        self.elementwise = self.typed or fused
        self.shaped = self.kind == "multiclass" or (ours is not None and not fused)
        if module:
            base = copy.copy(base)
            base.reduction = "none"
        elif plain or self.parted:
            options["reduction"] = "none"
        elif fused:
            options["return_tasks"] = True
        self.call = functools.partial(base, *args, **options)
        self.module = base if isinstance(base, nn.Module) else None
        self._check(options)

    def _check(self, options: dict[str, Any]) -> None:
        if self.kind == "multiclass" and self.columns > 1:
            raise ValueError(f"{self.name} is one task, not {self.columns}; use a Task for each.")
        held = {**getattr(self.module, "options", {}), **options}
        others = {"task_weight": "the Task's weight", "mask": "NaN labels"}
        for option, instead in others.items() if self.form == "fused" else ():
            if held.get(option, getattr(self.module, option, None)) is not None:
                raise ValueError(f"{self.name} must not hold a {option}; use {instead} instead.")
        self.ignored = held.get("ignore_index", getattr(self.module, "ignore_index", None))
        if not isinstance(self.ignored, Integral | NoneType) or isinstance(self.ignored, bool):
            got = type(self.ignored).__name__
            raise ValueError(f"ignore_index of {self.name} must be a whole number; got {got}.")

    def labelled(self, target: Tensor) -> Tensor:
        """Returns which labels are there: bool of the shape of ``target``.

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
        return present

    def hides_negatives(self, target: Tensor) -> bool:
        """Whether -1 is missing in such labels, without anyone having said so."""
        return self._negatives_missing(target.is_floating_point()) and self.ignored != -1

    def _negatives_missing(self, floating: bool) -> bool:
        return self.kind != "value" or not (floating or self.signed)

    def arguments(self, output: Tensor, target: Tensor) -> tuple[Any, ...]:
        """Returns what it is called with: an output (N, parts, D) of pairs or triplets in parts."""
        if self.parted is None:
            return output, target
        parts = output.unbind(1)
        if "levels" in self.parted:
            return parts[0], parts[1:]
        return (*parts, target) if "same" in self.parted else parts


def _function_of(name: str) -> Callable[..., Any]:
    """Returns our loss of that name, or torch's."""
    function: Any = getattr(MF if name in MF.LOSSES else F, name, None)
    if not takes(function, "reduction"):
        raise ValueError(
            "loss must be a callable or the name of a loss in mtlfast.functional or "
            f"torch.nn.functional; got {name!r}."
        )
    found: Callable[..., Any] = function
    return found


def _of_torchs(base: Any) -> Known:
    """Returns what the table says of a function or module of torch's; of others their name."""
    called = base if isinstance(base, nn.Module) else inspect.unwrap(base)
    for module, known in TORCHS.items():
        function = getattr(F, known.name)
        if called is function or isinstance(base, module):
            # Who inherits from a module may return something else.
            usual = called is function or getattr(type(base), "forward", None) is module.forward
            return known if usual else known._replace(form=None)
    return Known(name_of(base))


def _tensors(function: Callable[..., Any]) -> frozenset[str]:
    """Returns the names of what a loss on embeddings must be given: its labels among them."""
    given = inspect.signature(function).parameters.values()
    return frozenset(one.name for one in given if one.default is one.empty)
