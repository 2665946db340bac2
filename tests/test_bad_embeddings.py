"""Bad calls of the losses on embeddings end at once, in one line; see test_bad_input.py."""

import numpy
import pytest
import torch
from messages import message_of

import mtlfast
import mtlfast.functional as MF
from mtlfast.ops import native

A, B, C = torch.randn(3, 4, 5)
SAME = torch.ones(4)
TRIPLETS = (MF.triplet_margin_loss, MF.normalized_triplet_loss)


def on_pairs(a, b, **options):
    return MF.contrastive_loss(a, b, SAME, **options)


def on_levels(a, b, **options):
    return MF.hierarchical_triplet_loss(a, [b, C], [0.5], **options)


def on_triplets(a, b, **options):
    return MF.normalized_triplet_loss(a, b, C, **options)


# name: (call of a function of two rows, exception, pattern of the message)
BAD = {
    "rows that differ": (
        lambda f: f(A, B[:3]),
        ValueError,
        r"(x2|positive|levels\[0\]) must have the shape of (x1|anchor), \(4, 5\); got \(3, 5\)",
    ),
    "one row for all": (lambda f: f(A, B[:1]), ValueError, r"must have the shape of .*\(1, 5\)"),
    "widths that differ": (lambda f: f(A, B[:, :4]), ValueError, r"must have .*got \(4, 4\)"),
    "no width": (lambda f: f(A[:, :0], B[:, :0]), ValueError, r"at least one element.*\(4, 0\)"),
    "a single number": (lambda f: f(A[0, 0], B[0, 0]), ValueError, r"\(N, D\) rows.*got \(\)"),
    "integers": (lambda f: f(A.long(), B), TypeError, r"must be float32.*got torch.int64"),
    "complex": (lambda f: f(A, B * 1j), TypeError, r"must be float32.*got torch.complex64"),
    "a list": (lambda f: f(A, [[1.0]]), TypeError, r"must be a Tensor; got list"),
    "sparse": (lambda f: f(A.to_sparse(), B), ValueError, r"must be dense.*to_dense\(\)"),
    "another device": (
        lambda f: f(A, B.to("meta")),
        ValueError,
        r"must be on the device of (x1|anchor), cpu; got meta: call .*to\('cpu'\)",
    ),
    "sample_weight too short": (
        lambda f: f(A, B, sample_weight=torch.ones(3)),
        ValueError,
        r"sample_weight must have shape \(4,\), one per row; got \(3,\)",
    ),
    "sample_weight of one": (
        lambda f: f(A, B, sample_weight=torch.ones(())),
        ValueError,
        r"sample_weight must have shape \(4,\), one per row; got \(\)",
    ),
    "unknown reduction": (
        lambda f: f(A, B, reduction="batchmean"),
        ValueError,
        r"reduction must be one of none, sum, mean, nonzero; got 'batchmean'",
    ),
    "unknown backend": (
        lambda f: f(A, B, backend="cuda"),
        ValueError,
        r"backend must be one of auto, native, triton, reference; got 'cuda'",
    ),
}

BAD_OPTIONS = {
    "margin 0": (lambda: MF.triplet_margin_loss(A, B, C, 0.0), r"margin must be greater than 0"),
    "margin below 0": (
        lambda: MF.normalized_triplet_loss(A, B, C, -0.2),
        r"margin must be greater than 0.*; got -0.2",
    ),
    "contrastive margin below 0": (
        lambda: MF.contrastive_loss(A, B, SAME, -1.0),
        r"margin must be at least 0.*; got -1.0",
    ),
    "margin NaN": (lambda: MF.triplet_margin_loss(A, B, C, float("nan")), r"margin must be .*nan"),
    "margins per row too few": (
        lambda: MF.triplet_margin_loss(A, B, C, torch.ones(3)),
        r"margin must have shape \(4,\), one per row; got \(3,\)",
    ),
    "p": (lambda: MF.triplet_margin_loss(A, B, C, p=float("nan")), r"p must be .*; got nan"),
    "same too short": (
        lambda: MF.contrastive_loss(A, B, SAME[:3]),
        r"same must have shape \(4,\), one per row; got \(3,\)",
    ),
    "unknown distance": (
        lambda: on_pairs(A, B, distance="angular"),
        r"distance must be one of euclidean, manhattan, cosine; got 'angular'",
    ),
    "scale without cosine": (
        lambda: on_pairs(A, B, scale=2.0),
        r"scale and bias belong to distance='cosine'; got distance='euclidean'",
    ),
    "scale per row": (
        lambda: on_pairs(A, B, distance="cosine", scale=torch.ones(4)),
        r"scale must be a number or hold one; got shape \(4,\)",
    ),
    "one level": (
        lambda: MF.hierarchical_triplet_loss(A, [B], []),
        r"levels must hold at least 2 tensors; got 1",
    ),
    "levels and margins": (
        lambda: MF.hierarchical_triplet_loss(A, [B, C], [0.5, 0.2]),
        r"margins must hold 1, one less than levels; got 2",
    ),
    "margins that do not decrease": (
        lambda: MF.hierarchical_triplet_loss(A, [B, C, A], [0.2, 0.5]),
        r"margins must decrease and stay above 0; got \[0.2, 0.5\]",
    ),
    "margins that end at 0": (
        lambda: MF.hierarchical_triplet_loss(A, [B, C], [0.0]),
        r"margins must decrease and stay above 0",
    ),
    "attributes that differ": (
        lambda: MF.attribute_margin(torch.ones(4, 3), torch.ones(4, 2), 0.2, 0.5),
        r"attributes_n must be \(N, L\), like attributes_a; got \(4, 2\)",
    ),
    "module": (
        lambda: mtlfast.ContrastiveLoss(distance="cosine", scale=torch.ones(2))(A, B, SAME),
        r"scale must be a number or hold one",
    ),
    "reduction of a module": (
        lambda: mtlfast.NormalizedTripletLoss(reduction="taskmean"),
        r"reduction must be one of none, sum, mean, nonzero; got 'taskmean'",
    ),
}


BAD_SEQUENCES = {
    "margins as a tensor": (
        lambda: MF.hierarchical_triplet_loss(A, [B, C, A], torch.tensor([0.5, 0.2])),
        r"margins must be a sequence of numbers; got Tensor: call \.tolist\(\) first",
    ),
    "margins of a module as a tensor": (
        lambda: mtlfast.HierarchicalTripletLoss(torch.tensor([0.5, 0.2])),
        r"margins must be a sequence of numbers; got Tensor: call \.tolist\(\) first",
    ),
    "margins as one number of numpy": (
        lambda: mtlfast.HierarchicalTripletLoss(numpy.array(0.5)),
        r"margins must be a sequence of numbers; got ndarray: call \.tolist\(\) first",
    ),
    "levels as one number": (
        lambda: MF.hierarchical_triplet_loss(A, torch.tensor(0.5), [0.5]),
        r"levels must be a sequence of tensors; got Tensor",
    ),
    "margins as a mapping": (
        lambda: MF.hierarchical_triplet_loss(A, [B, C], {0.5: 1}),
        r"margins must be a sequence of numbers; got dict",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("function", [on_pairs, on_triplets, on_levels])
def test_bad_rows_are_told_in_one_line(function, name, no_work):
    call, kind, pattern = BAD[name]
    message_of(lambda: call(function), kind, pattern)


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_option_is_told_in_one_line(name, no_work):
    message_of(BAD_OPTIONS[name][0], ValueError, BAD_OPTIONS[name][1])


@pytest.mark.parametrize("name", BAD_SEQUENCES)
def test_what_is_no_sequence_is_told_in_one_line(name, no_work):
    call, pattern = BAD_SEQUENCES[name]
    message_of(call, TypeError, pattern)


def test_what_only_the_reference_has_never_falls_through():
    for p in (0.0, -1.0, float("inf")):
        expected = torch.nn.functional.triplet_margin_loss(A, B, C, p=p)
        torch.testing.assert_close(MF.triplet_margin_loss(A, B, C, p=p), expected)
    if native.PATH is not None:
        call = lambda: MF.triplet_margin_loss(A, B, C, p=float("inf"), backend="native")  # noqa: E731
        message_of(call, RuntimeError, r"can't run this: p = inf has no kernel; use 'reference'")
    levels = [torch.randn(4, 5) for _ in range(33)]
    margins = [1.0 - k / 40 for k in range(32)]
    assert MF.hierarchical_triplet_loss(A, levels, margins).isfinite()
