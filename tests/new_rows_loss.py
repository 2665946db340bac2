"""A new loss on rows, as the README's steps write it."""

# What is written: the file, the text that follows (None: the file ends), and the new text.
ROWS = [
    (
        "mtlfast/ops/reference.py",
        None,
        """

def halved_triplet_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float | Tensor
) -> Tensor:
    near, far = minkowski_distance(anchor, positive), minkowski_distance(anchor, negative)
    return _hinge(near - far + margin) / 2
""",
    ),
    (
        "mtlfast/ops/catalogue.py",
        '    Loss(\n        "normalized_triplet_loss"',
        """    Loss(
        "halved_triplet_loss",
        "rows",
        reference.halved_triplet_loss,
        {"margin": 1.0},
    ),
""",
    ),
    (
        "csrc/rows.h",
        "// The names as in MF",
        """// Half of max(0, d_ap - d_an + margin).
struct HalvedTripletLoss {
  template <class F>
  MTLFAST_INLINE static F value(const F* d, const RowTerms<F>& row, F* slopes) {
    const F h = d[0] - d[1] + row.margin;
    slopes[0] = F(0.5) * hinge_slope(h);
    slopes[1] = -slopes[0];
    return F(0.5) * hinge(h);
  }
};

""",
    ),
    ("csrc/rows.h", "\n\n}  // namespace mtlfast", " \\\n  X(halved_triplet_loss)"),
    (
        "csrc/rows.h",
        "}  // namespace parameters_of",
        """struct halved_triplet_loss {
  MTLFAST_PARAMETERS(margin);
};
""",
    ),
    ("csrc/rows_call.h", " };\n\nenum class RowsName", ", kHalvedTriplet"),
    (
        "csrc/rows_call.h",
        "  } else {\n    takes(call->inputs >= 3",
        """  } else if (loss == RowsName::halved_triplet_loss) {
    takes(call->inputs == 3 && params.size() == 1, "3 rows and 1 param");
    call->loss = RowsLoss::kHalvedTriplet;
    call->margin_value = named<parameters_of::halved_triplet_loss, double>(params.data()).margin;
""",
    ),
    (
        "csrc/rows_call.h",
        "    case RowsLoss::kCosineContrastive:\n",
        """    case RowsLoss::kHalvedTriplet:
      return visit(HalvedTripletLoss{});
""",
    ),
    (
        "kernels/row_losses.py",
        "class Metric(NamedTuple)",
        """@triton.jit
def halved_triplet_loss_value(
    d, gaps, same, scale, bias, overlap, SWAP: tl.constexpr, SOFT: tl.constexpr
):
    h = d[0] - d[1] + gaps[0]
    slope = 0.5 * hinge_slope(h)
    return 0.5 * hinge(h), (slope, -slope)


""",
    ),
    (
        "kernels/row_losses.py",
        "# The names as in MF",
        """def _halved_triplet_loss(margin: float) -> Settings:
    return Settings(halved_triplet_loss_value, (margin,), normalize=False, squared=False)


""",
    ),
    (
        "kernels/row_losses.py",
        "}\n\n\n@functools.lru_cache",
        '    "halved_triplet_loss": _halved_triplet_loss,\n',
    ),
    ("mtlfast/functional/rows.py", '    "triplet_margin', '    "halved_triplet_loss",\n'),
    (
        "mtlfast/functional/rows.py",
        None,
        '''

@documented
def halved_triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float | Tensor = 1.0,
    *,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Returns the halved triplet loss of rows.

    With d the Euclidean distance,

        l = max(0, d(a, p) - d(a, n) + m) / 2

    <rows>

    Args:
        anchor, positive, negative: <embeddings>
        <margin>
        <shared>

    Returns:
        <row_returns>

    Raises:
        <raises>

    Source: triplet_margin_loss, with the factor one half of normalized_triplet_loss.

    Example:
        >>> import torch
        >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
        >>> halved_triplet_loss(a, p, n)
        tensor(3.)
    """
    check_margin(margin, 0.0, inclusive=True)
    return rows(
        "halved_triplet_loss",
        {"anchor": anchor, "positive": positive, "negative": negative},
        {"margin": margin},
        reduction,
        sample_weight=sample_weight,
        backend=backend,
    )
''',
    ),
    ("mtlfast/modules/embeddings.py", '    "TripletMarginLoss"', '    "HalvedTripletLoss",\n'),
    (
        "mtlfast/modules/embeddings.py",
        None,
        '''

class HalvedTripletLoss(_TripletLoss):
    """Halved triplet loss; call it with ``(anchor, positive, negative)``.

    Example:
        >>> import torch
        >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
        >>> HalvedTripletLoss()(a, p, n)
        tensor(3.)
    """

    function = MF.halved_triplet_loss
''',
    ),
]
