// The one list of native ops, and on which device each runs. They take tensors and numbers alone:
// dispatch.h tells why. loss is the number of a name in the family's list, reduction in that of
// dispatch.h.
//
// Pointwise. Shapes: (N, T) logits and target, contiguous; mask (bool), weight,
// pos_weight and sample_weight expanded views of (N, T); task_weight (T,). Factors are float32, or
// float64 beside float64 logits. loss is a scalar in that dtype, or (N, T) like the logits for
// "none"; task_loss and denominator are (T,), count (T,) int64.
//
// Rows. `rows` are (N, D), of one dtype, elements side by side, rows of any stride; the anchor, or
// x1, comes first. same is (N,) bool; margin and sample_weight (N,), scale and bias scalars, in the
// compute dtype. loss is a scalar in that dtype, or (N,) like the rows for "none"; denominator a
// scalar. rows_backward returns the gradients of the rows that `wanted` lists, contiguous.
//
// In-batch: what is done with a tile of similarities. mtlfast/ops/inbatch.py tells each op.
#include <torch/csrc/stable/library.h>

#include "entries.h"

STABLE_TORCH_LIBRARY(mtlfast, library) {
  library.def(
      "pointwise_forward(Tensor logits, Tensor target, Tensor? mask, Tensor? weight, "
      "Tensor? pos_weight, Tensor? sample_weight, Tensor? task_weight, int loss, float[] params, "
      "int reduction) -> (Tensor loss, Tensor task_loss, Tensor count, Tensor denominator)");
  library.def(
      "pointwise_backward(Tensor? grad_loss, Tensor? grad_task_loss, Tensor logits, Tensor target, "
      "Tensor? mask, Tensor? weight, Tensor? pos_weight, Tensor? sample_weight, "
      "Tensor? task_weight, Tensor count, Tensor denominator, int loss, float[] params, "
      "int reduction) -> Tensor");
  library.def(
      "rows_forward(Tensor[] rows, Tensor? same, Tensor? margin, Tensor? sample_weight, "
      "Tensor? scale, Tensor? bias, int loss, float[] params, int reduction) "
      "-> (Tensor loss, Tensor denominator)");
  library.def(
      "rows_backward(Tensor grad_loss, Tensor[] rows, Tensor? same, Tensor? margin, "
      "Tensor? sample_weight, Tensor? scale, Tensor? bias, Tensor denominator, int loss, "
      "float[] params, int reduction, int[] wanted) -> Tensor[]");
  library.def(
      "inbatch_units(Tensor x, bool normalize) "
      "-> (Tensor units, Tensor rest, Tensor reciprocal, Tensor square)");
  library.def(
      "inbatch_mine(Tensor(a!) tile, Tensor(b!)? near, Tensor(c!) stats, Tensor x, Tensor x_rest, "
      "Tensor x_square, Tensor x_labels, Tensor y, Tensor y_rest, Tensor y_square, "
      "Tensor y_labels, int first, bool own, bool shared, int loss, float[] params) -> ()");
  library.def(
      "inbatch_totals(Tensor stats, Tensor like, int reduction) "
      "-> (Tensor loss, Tensor coefficient)");
  library.def(
      "inbatch_weigh(Tensor(a!) tile, Tensor x_labels, Tensor y_labels, Tensor coefficient, "
      "int first, bool own, bool shared, float[] params) -> ()");
  library.def(
      "inbatch_near(Tensor(a!) tile, Tensor near, Tensor x, Tensor x_rest, Tensor y, "
      "Tensor y_rest, Tensor(b!)? x_grad, Tensor(c!)? y_grad, int first, bool radial, "
      "bool dense) -> ()");
  library.def(
      "inbatch_project(Tensor(a!) grad, Tensor units, Tensor reciprocal, Tensor? coefficient, "
      "float factor, bool normalize) -> ()");
}

namespace {

// What every device runs.
template <class Device, class Library>
void add_ops(Library& library) {
  using Of = mtlfast::Entries<Device>;
  library.impl("pointwise_forward", TORCH_BOX(&Of::pointwise_forward));
  library.impl("pointwise_backward", TORCH_BOX(&Of::pointwise_backward));
  library.impl("rows_forward", TORCH_BOX(&Of::rows_forward));
  library.impl("rows_backward", TORCH_BOX(&Of::rows_backward));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mtlfast, CPU, library) {
  add_ops<mtlfast::Cpu>(library);
  using Of = mtlfast::Entries<mtlfast::Cpu>;
  library.impl("inbatch_units", TORCH_BOX(&Of::inbatch_units));
  library.impl("inbatch_mine", TORCH_BOX(&Of::inbatch_mine));
  library.impl("inbatch_totals", TORCH_BOX(&Of::inbatch_totals));
  library.impl("inbatch_weigh", TORCH_BOX(&Of::inbatch_weigh));
  library.impl("inbatch_near", TORCH_BOX(&Of::inbatch_near));
  library.impl("inbatch_project", TORCH_BOX(&Of::inbatch_project));
}

#if defined(MTLFAST_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(mtlfast, CUDA, library) { add_ops<mtlfast::Cuda>(library); }
#endif
