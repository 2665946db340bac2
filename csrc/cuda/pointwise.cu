// The pointwise losses on CUDA: what the kernels are called with, and their registration.
#include <torch/csrc/stable/library.h>

#include <limits>

#include "pointwise.cuh"

namespace mtlfast {
namespace {

// `bytes`: what one vector load of the operand asks for.
Strided strided(const Operand& operand, const PointwiseCall& call, const Layout& layout,
                size_t bytes) {
  const bool rows = operand.row_stride == call.tasks || call.rows <= 1;
  const bool columns = operand.column_stride == 1 || call.tasks == 1;
  return {operand.data, operand.row_stride, operand.column_stride,
          operand && rows && columns && layout.width % layout.vector == 0 &&
              aligned(operand.data, bytes)};
}

Path path_of(const PointwiseCall& call) {
  const bool varies = call.pos_weight && call.pos_weight.row_stride != 0;
  if (varies || call.mask || call.weight || call.sample_weight ||
      call.reduction == Reduction::kNone) {
    return Path::kGeneral;
  }
  if (is_byte(call.target.dtype)) return Path::kBytes;
  return call.target.dtype == ScalarType::Float ? Path::kFloats : Path::kGeneral;
}

template <class Logit>
PointwiseArgs common_args(const PointwiseCall& call, Path path, bool folds) {
  int vector = 0, unroll = 0;
  visit_path(path, [&](auto constant) {
    vector = kVector<Logit, constant()>;
    unroll = kUnroll<Logit, constant()>;
  });
  const Layout layout(call.rows, call.tasks, vector, unroll, folds);
  require(layout.rows < std::numeric_limits<int32_t>::max() / 2,
          "the input has too many rows for one call; split it.");
  const auto smoothing = static_cast<float>(call.params[0]);
  return {layout,
          call.logits.data,
          call.target.data,
          call.logits.dtype,
          call.target.dtype,
          layout.width % vector == 0 && aligned(call.logits.data, 16) &&
              aligned(call.target.data, is_byte(call.target.dtype) ? vector : 16),
          call.classification ? 0.0f : -std::numeric_limits<float>::infinity(),
          1 - smoothing,
          0.5f * smoothing,
          call.params_as<float>(),
          strided(call.mask, call, layout, vector),
          strided(call.weight, call, layout, 16),
          strided(call.sample_weight, call, layout, 16),
          strided(call.pos_weight, call, layout, 16),
          static_cast<const float*>(call.task_weight)};
}

// The forward's scratch: slots' or tiles' totals, partial sums, tickets. It belongs to the call,
// since a global one would race between streams and between replays of a graph.
Tensor allocate_scratch(const Launcher& launch, const Tensor& logits, Path path,
                        ForwardArgs& args) {
  const Layout& layout = args.layout;
  const int64_t totals = layout.period > 1 ? layout.width : layout.tiles;
  const int64_t slots = layout.splits > 1 ? layout.blocks() * kLanes * layout.vector : 0;
  const int64_t tickets = layout.blocks() > 1 ? layout.tiles + 1 : 0;
  const int64_t words = (path == Path::kGeneral ? 3 : 2) * slots + tickets;
  static_assert(sizeof(float) == sizeof(uint32_t) && sizeof(Totals) % sizeof(uint32_t) == 0);
  Tensor scratch = new_tensor(logits, {totals * static_cast<int64_t>(sizeof(Totals)) + 4 * words},
                              ScalarType::Byte);
  args.totals = data_of<Totals>(scratch);
  args.tickets = reinterpret_cast<uint32_t*>(args.totals + totals);
  args.partials.count = args.tickets + tickets;
  args.partials.loss = reinterpret_cast<float*>(args.partials.count + slots);
  args.partials.weight = args.partials.loss + slots;
  if (tickets > 0) launch.zero(args.tickets, tickets * sizeof(uint32_t));
  return scratch;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pointwise_forward(
    const Tensor& logits, const Tensor& target, const OptionalTensor& mask,
    const OptionalTensor& weight, const OptionalTensor& pos_weight,
    const OptionalTensor& sample_weight, const OptionalTensor& task_weight, int64_t loss,
    const std::vector<double>& params, int64_t reduction) {
  const auto call = parse_pointwise(logits, target, mask, weight, pos_weight, sample_weight,
                                    task_weight, loss, params, reduction);
  require_narrow(call.compute);
  const Launcher launch(logits);
  const PointwiseResult result(call, logits);
  visit_narrow(call.logits.dtype, [&](auto type) {
    using Logit = decltype(type);
    const bool none = call.reduction == Reduction::kNone;
    const Path path = path_of(call);
    ForwardArgs args{common_args<Logit>(call, path, true)};
    args.reduction = call.reduction;
    args.weighted_mean = call.weighted_mean;
    args.samples = call.rows;
    args.elements = none ? data_of<void>(result.loss) : nullptr;
    args.loss = none ? nullptr : data_of<float>(result.loss);
    args.task_loss = data_of<float>(result.task_loss);
    args.denominator = data_of<float>(result.denominator);
    args.count = data_of<int64_t>(result.count);
    const Tensor scratch = allocate_scratch(launch, logits, path, args);
    run_forward<Logit>(launch, call.loss, path, args);
  });
  return result.as_tuple();
}

Tensor pointwise_backward(const OptionalTensor& grad_loss, const OptionalTensor& grad_task_loss,
                          const Tensor& logits, const Tensor& target, const OptionalTensor& mask,
                          const OptionalTensor& weight, const OptionalTensor& pos_weight,
                          const OptionalTensor& sample_weight, const OptionalTensor& task_weight,
                          const Tensor& count, const Tensor& denominator, int64_t loss,
                          const std::vector<double>& params, int64_t reduction) {
  const auto call = parse_pointwise(logits, target, mask, weight, pos_weight, sample_weight,
                                    task_weight, loss, params, reduction);
  require_narrow(call.compute);
  const auto upstream = parse_upstream(call, grad_loss, grad_task_loss, logits, count, denominator);
  const Launcher launch(logits);
  const Tensor gradient = new_tensor(logits, {call.rows, call.tasks}, call.logits.dtype);
  if (call.rows * call.tasks == 0) return gradient;
  visit_narrow(call.logits.dtype, [&](auto type) {
    using Logit = decltype(type);
    const bool none = call.reduction == Reduction::kNone;
    const Path path = path_of(call);
    BackwardArgs args{common_args<Logit>(call, path, false)};
    args.none = none;
    if (none) {
      args.upstream = strided(upstream.loss, call, args.layout, 16);
    } else {
      args.grad_loss = static_cast<const float*>(upstream.loss.data);
    }
    args.grad_task_loss = static_cast<const float*>(upstream.task_loss);
    args.denominator = static_cast<const float*>(upstream.denominator);
    args.count = upstream.count;
    args.gradient = data_of<void>(gradient);
    run_backward<Logit>(launch, call.loss, path, args);
  });
  return gradient;
}

}  // namespace
}  // namespace mtlfast

STABLE_TORCH_LIBRARY_IMPL(mtlfast, CUDA, library) {
  library.impl("pointwise_forward", TORCH_BOX(&mtlfast::pointwise_forward));
  library.impl("pointwise_backward", TORCH_BOX(&mtlfast::pointwise_backward));
}
