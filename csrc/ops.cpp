// The one list of native ops. Shapes: (N, T) logits and target, contiguous; mask (bool), weight,
// pos_weight and sample_weight expanded views of (N, T); task_weight (T,). Factors are float32, or
// float64 beside float64 logits. loss is a scalar in that dtype, or (N, T) like the logits for
// "none"; task_loss and denominator are (T,), count (T,) int64.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mtlfast, library) {
  library.def(
      "pointwise_forward(Tensor logits, Tensor target, Tensor? mask, Tensor? weight, "
      "Tensor? pos_weight, Tensor? sample_weight, Tensor? task_weight, str loss, float[] params, "
      "str reduction) -> (Tensor loss, Tensor task_loss, Tensor count, Tensor denominator)");
  library.def(
      "pointwise_backward(Tensor? grad_loss, Tensor? grad_task_loss, Tensor logits, Tensor target, "
      "Tensor? mask, Tensor? weight, Tensor? pos_weight, Tensor? sample_weight, "
      "Tensor? task_weight, Tensor count, Tensor denominator, str loss, float[] params, "
      "str reduction) -> Tensor");
}
