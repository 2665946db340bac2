"""The paragraphs that the docstrings of several losses share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SHARED = {
    "mask": """ignore_index: a number; a target equal to it is missing, whatever its dtype.
        mask: bool, True where labelled; broadcasts over N or T. Default: every element
            whose target says so.""",
    "weights": """task_weight: (T,) multiplies task t in every reduction, "none" included.
        sample_weight: (N,) multiplies row i. Neither weight enters a denominator; both stay on
            the device and get a gradient if they ask for one.
        return_tasks: also return per-task means and labelled counts, from the same kernel.
        backend: "auto", "native", "triton" or "reference"; a named backend runs or raises. The
            transforms of torch.func, and torch.compile where it traces a gradient of target,
            weight, pos_weight or sample_weight, always take the reference.""",
    "reduction": """reduction: "none" (zeros where missing), "sum", "mean" (over labelled elements),
            "batchmean" (sum / N) or "taskmean" (sum over t of task_weight[t] x mean over the
            labelled of t).""",
    "legacy": "size_average, reduce: deprecated in torch; they choose the reduction as there.",
    "returns": """A scalar in torch's dtype (float32 under autocast), or the shape of the input for
        "none"; with `return_tasks`, ``(loss, TaskLosses(loss=(T,), count=(T,)))``: means over
        labelled elements with weight, pos_weight and sample_weight in and task_weight out, in
        float32 (float64 for float64), and int64 counts. Nothing labelled gives 0, gradient 0.""",
    "raises": """ValueError, TypeError: for an argument of the wrong shape, type, range or device,
            before any work. Values in tensors are not checked: that would make the device wait.
        RuntimeError: where the named backend can't run.""",
    "layout": """Dimensions before the last flatten into N; at most one dimension means N rows of
    one task. Non-contiguous tensors are copied once, and a target of a wider floating type promotes
    the logits, as in torch.""",
    "missing": """Missing labels, a NaN or a negative target of any dtype (-1, -1.0, -100.0), one
    equal to `ignore_index`, or False in `mask`, add exactly 0 to the loss and to the gradient,
    whatever the logit and the weights there are. Presence is decided before any smoothing.""",
    "missing_regression": """Missing labels, a NaN in a floating target, a target equal to
    `ignore_index`, or False in `mask`, add exactly 0 to the loss and to the gradient, whatever the
    prediction and the weights there are. Negative numbers are ordinary targets.""",
    "target": """target: the shape of input; floating (soft labels welcome), bool, uint8, int8 (the
            fast path), int16, int32 or int64. Integer targets above 1 are not checked.""",
    "smoothing": "label_smoothing: s in [0, 1]; y becomes y (1 - s) + s / 2.",
    "regression": """input: (N, T) predictions: float32, float64, bfloat16 or float16.
        target: the shape of input, floating or integer; broadcasts with torch's warning when only
            torch's arguments are given.""",
    "embeddings": """(N, D) rows: float32, float64, bfloat16 or float16.""",
    "margin": """margin: m, a number, or a tensor: (N,), one per row, or a single one for all. A
            tensor's values are not checked, and it gets no gradient.""",
    "rows": """Dimensions before the last flatten into N; a single dimension is one row, unbatched,
    as in torch. Rows may lie at any distance from one another; elements that are not side by side
    are copied once. A row to be scaled to unit length whose norm is below 1e-12 enters as
    x / 1e-12, and its gradient is 0. Several dtypes promote to one, as in torch.""",
    "shared": """sample_weight: (N,) multiplies row i; it enters no denominator, and gets a gradient
            if it asks for one.
        reduction: "none", "sum", "mean" (over N) or "nonzero" (sum / number of rows with a
            positive loss).
        backend: "auto", "native", "triton" or "reference"; a named backend runs or raises. The
            transforms of torch.func, and torch.compile where it traces a gradient of
            sample_weight, scale or bias, always take the reference.""",
    "batch": """Pairs whose distance is 0 get gradient 0. A row to be normalised whose norm is below
    1e-12 enters as x / 1e-12, and its gradient is 0. Tiles take at most 32 MB, whatever N is,
    beside a few copies of the embeddings. Distances are float32 accurate, whatever autocast and
    TF32 settings say.""",
    "batch_operands": """embeddings: (N, D) rows: float32, float64, bfloat16 or float16.
        labels: (N,) integers, or (N, L) multi-hot, bool or integers, where two rows match if they
            share a label; an entry above 0 is a label, a negative one is none.""",
    "batch_distance": """normalize: compare x / |x|.
        squared: d is the squared Euclidean distance.""",
    "batch_reference": """ref_embeddings, ref_labels: (M, D) and (M,) or (M, L): the rows that the
            anchors are compared with, a memory bank say, instead of each other; then an anchor may
            meet itself. Both get a gradient if they ask for one.
        backend: "auto", "native", "triton" or "reference"; a named backend runs or raises. The
            transforms of torch.func and double backward take the reference, whose memory grows as
            N^3.""",
    "batch_returns": """A scalar in the embeddings' dtype (float32 under autocast). Without a
        triplet or pair it is 0, and so is the gradient.""",
    "row_returns": """A scalar in the rows' dtype (float32 under autocast), or one value per row for
        "none". No rows give 0, with an empty gradient.""",
}


def documented(function: _Function) -> _Function:
    """Puts the shared paragraphs into a docstring."""
    text = function.__doc__ or ""
    for name, paragraph in _SHARED.items():
        text = text.replace(f"<{name}>", paragraph)
    function.__doc__ = text
    return function
