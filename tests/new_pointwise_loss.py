"""A new loss of (N, T), as the README's steps write it."""

# What is written: the file, the text that follows (None: the file ends), and the new text.
POINTWISE = [
    (
        "mtlfast/ops/reference.py",
        "SMALLEST_NORM",
        """def squared_hinge_loss(x: Tensor, y: Tensor) -> Tensor:
    return _hinge(1 - (2 * y - 1) * x) ** 2


""",
    ),
    (
        "mtlfast/ops/catalogue.py",
        '    Loss("mse_loss"',
        """    Loss(
        "squared_hinge_loss",
        "pointwise",
        reference.squared_hinge_loss,
        classification=True,
    ),
""",
    ),
    (
        "csrc/pointwise.h",
        "struct MseLoss",
        """struct SquaredHingeLoss : WithoutParameters {
  static constexpr const char* kName = "squared_hinge_loss";
  static constexpr bool kClassification = true, kWeightedMean = false, kWide = true;

  template <class F, class K>
  MTLFAST_INLINE static F value(F x, F y, F, const K&) {
    const F violation = F(1) - (F(2) * y - F(1)) * x;
    return violation < F(0) ? F(0) : violation * violation;
  }
  template <class F, class K>
  MTLFAST_INLINE static F grad(F x, F y, F, const K&) {
    const F label = F(2) * y - F(1), violation = F(1) - label * x;
    return violation < F(0) ? F(0) : F(-2) * label * violation;
  }
};

""",
    ),
    ("csrc/pointwise.h", "  X(MseLoss)", "  X(SquaredHingeLoss) \\\n"),
    (
        "kernels/losses.py",
        "@triton.jit\ndef mse_loss_value",
        """@triton.jit
def squared_hinge_loss_value(x, y, p, _a, _b, _c, _d, POWERS: tl.constexpr):
    violation = 1.0 - (2.0 * y - 1.0) * x
    return tl.where(violation < 0, 0.0, violation * violation)


@triton.jit
def squared_hinge_loss_grad(x, y, p, _a, _b, _c, _d, POWERS: tl.constexpr):
    label = 2.0 * y - 1.0
    violation = 1.0 - label * x
    return tl.where(violation < 0, 0.0, -2.0 * label * violation)


""",
    ),
    (
        "kernels/losses.py",
        '    "mse_loss": Functor',
        """    "squared_hinge_loss": Functor(
        squared_hinge_loss_value, squared_hinge_loss_grad, classification=True
    ),
""",
    ),
    ("mtlfast/functional/pointwise.py", '"sigmoid_focal_loss"]', '"squared_hinge_loss", '),
    (
        "mtlfast/functional/pointwise.py",
        None,
        '''

@with_tasks
@documented
def squared_hinge_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    task_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    return_tasks: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, TaskLosses]:
    """Returns the squared hinge loss of scores, labels missing or not.

    With a label y from 0 to 1,

        l = max(0, 1 - (2 y - 1) x)^2

    <missing>
    <layout>

    Args:
        input: (N, T) scores: float32, float64, bfloat16 or float16.
        <target>
        <reduction>
        <smoothing>
        <mask>
        <weights>

    Returns:
        <returns>

    Raises:
        <raises>

    Source: Tang, Deep Learning using Linear Support Vector Machines, equation 8.

    Example:
        >>> import torch
        >>> squared_hinge_loss(torch.tensor([[0.5, 3.0]]), torch.tensor([[1, -1]]))
        tensor(0.2500)
    """
    return pointwise(
        "squared_hinge_loss",
        input,
        target,
        {},
        reduction,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        mask=mask,
        task_weight=task_weight,
        sample_weight=sample_weight,
        return_tasks=return_tasks,
        backend=backend,
    )
''',
    ),
    ("mtlfast/modules/pointwise.py", '    "SmoothL1Loss"', '    "SquaredHingeLoss",\n'),
    (
        "mtlfast/modules/pointwise.py",
        None,
        '''

class SquaredHingeLoss(Loss):
    """Squared hinge loss; options as `functional.squared_hinge_loss`.

    Example:
        >>> import torch
        >>> SquaredHingeLoss()(torch.tensor([[0.5, 3.0]]), torch.tensor([[1, -1]]))
        tensor(0.2500)
    """

    function = MF.squared_hinge_loss
''',
    ),
]
