// The pointwise losses on CUDA: what the kernels are called with, and their registration.
#include <torch/csrc/stable/library.h>

#include <limits>

#include "pointwise_finish.cuh"

namespace mtlfast {
namespace {

struct Weighted {
  Partial partial;
  float weight;

  __device__ operator Totals() const { return {partial.loss, weight, partial.count}; }
};

__global__ void __launch_bounds__(kLanes* kLanes)
    pointwise_sums_kernel(const __grid_constant__ ForwardArgs args) {
  __shared__ Totals scratch[kLanes * kLanes];
  const int64_t group = blockIdx.x, first = group * args.columns;
  wait_for_previous_kernel();
  const Totals sum =
      sum_columns<4>(args.parts, args.columns, scratch, [&](int column, int64_t part) -> Weighted {
        const int64_t at = (group * args.parts + part) * args.columns + column;
        return {args.partials[at], args.partial_weights == nullptr ? 0 : args.partial_weights[at]};
      });
  if (args.by_task()) {
    finish_tasks(args, group, first, args.columns, sum);
  } else if (thread_number() < args.columns && first + thread_number() < args.layout.width) {
    args.totals[first + thread_number()] = sum;
  }
  let_next_kernel_start();
}

__global__ void __launch_bounds__(kLanes* kLanes)
    pointwise_finish_kernel(const __grid_constant__ ForwardArgs args) {
  __shared__ Totals scratch[kLanes * kLanes];
  wait_for_previous_kernel();
  Totals scalars;
  if (args.by_task()) {
    for (int64_t group = thread_number(); group < args.groups; group += block_threads()) {
      scalars += args.totals[group];
    }
  } else {  // task t is slots t, t + T, ...
    const int64_t tasks = args.layout.tasks;
    const int width = static_cast<int>(min(tasks, int64_t{block_threads()}));
    for (int64_t base = 0; base < tasks; base += width) {
      const Totals sum =
          sum_columns<2>(args.layout.period, width, scratch, [&](int column, int64_t i) -> Totals {
            return base + column < tasks ? args.totals[base + column + i * tasks] : Totals();
          });
      const int64_t t = base + thread_number();
      if (thread_number() < width && t < tasks) scalars += finish_task(args, t, sum);
    }
  }
  finish_scalars(args, block_sum(scalars));
}

// `bytes`: what one vector load of the operand asks for.
Strided strided(const Operand& operand, const PointwiseCall& call, const Layout& layout,
                size_t bytes) {
  const bool rows = operand.row_stride == call.tasks || call.rows <= 1;
  const bool columns = operand.column_stride == 1 || call.tasks == 1;
  Reach reach = Reach::kElements;
  if (operand && rows && columns && layout.width % layout.vector == 0 &&
      aligned(operand.data, bytes)) {
    reach = Reach::kVectors;
  } else if (operand.row_stride == 0) {
    reach = Reach::kColumns;
  } else if (operand.column_stride == 0) {
    reach = Reach::kRows;
  }
  return {operand.data, operand.row_stride, operand.column_stride, reach};
}

Path path_of(const PointwiseCall& call) {
  if (call.reduction == Reduction::kNone) return Path::kGeneral;
  const bool plain = !call.pos_weight && !call.mask && !call.weight && !call.sample_weight;
  if (is_byte(call.target.dtype)) return plain ? Path::kBytes : Path::kWeightedBytes;
  if (call.target.dtype != ScalarType::Float) return Path::kGeneral;
  return plain ? Path::kFloats : Path::kWeightedFloats;
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

// The forward's scratch: partial sums, then totals of slots or groups. It belongs to the call,
// since a global one would race between streams and between replays of a graph.
Tensor allocate_scratch(const Tensor& logits, Path path, ForwardArgs& args) {
  const Layout& layout = args.layout;
  args.folds = layout.tasks > 0 && layout.tasks <= kFewTasks;
  args.columns = static_cast<int>(args.folds ? layout.tasks : kLanes * layout.vector);
  args.groups = args.folds ? 1 : layout.tiles;
  args.parts = args.folds ? layout.blocks() : layout.splits;
  const int64_t totals = args.by_task() ? args.groups : layout.width;
  const int64_t partials = args.groups * args.parts * args.columns;
  const bool weighted = !is_plain(path) && args.weighted_mean;
  const size_t bytes = totals * sizeof(Totals) + partials * sizeof(Partial) +
                       (weighted ? partials * sizeof(float) : 0);
  Tensor scratch = new_tensor(logits, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  args.totals = data_of<Totals>(scratch);
  args.partials = reinterpret_cast<Partial*>(args.totals + totals);
  args.partial_weights = weighted ? reinterpret_cast<float*>(args.partials + partials) : nullptr;
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
    const Tensor scratch = allocate_scratch(logits, path, args);
    run_forward<Logit>(launch, call.loss, path, args);
    const bool by_task = args.by_task();
    if (args.parts > 1 || !by_task) {
      launch.next(pointwise_sums_kernel, args.groups, kLanes, args);
    }
    if (args.groups > 1 || !by_task) launch.next(pointwise_finish_kernel, 1, kLanes, args);
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
