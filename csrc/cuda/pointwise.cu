// The pointwise losses on CUDA: what the kernels are called with.
#include <bit>
#include <cmath>
#include <limits>

#include "devices.h"
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
  let_next_kernel_start();
  const Share share(args.columns);
  const int64_t group = blockIdx.x;
  const int64_t slot = group * args.columns + share.column, at = slot * args.parts;
  wait_for_previous_kernel();
  const Totals sum = share.sum<8>(static_cast<int>(args.parts), [&](int part) -> Weighted {
    const bool weighted = args.partial_weights != nullptr;
    return {args.partials[at + part], weighted ? args.partial_weights[at + part] : 0};
  });
  if (args.by_task()) {
    finish_tasks(args, group, slot, share.leads, sum);
  } else if (share.leads && slot < args.layout.width) {
    args.totals[slot] = sum;
  }
}

__global__ void __launch_bounds__(kLanes* kLanes)
    pointwise_finish_kernel(const __grid_constant__ ForwardArgs args) {
  wait_for_previous_kernel();
  Scalars scalars;
  if (args.by_task()) {
    for (int64_t group = thread_number(); group < args.groups; group += block_threads()) {
      scalars += args.scalars[group];
    }
  } else {  // task t is slots t, t + T, ...
    const int64_t tasks = args.layout.tasks;
    const Share share(static_cast<int>(min(tasks, int64_t{block_threads()})));
    const int width = block_threads() / share.lanes;
    for (int64_t t = share.column; t - share.column < tasks; t += width) {
      const Totals sum = share.sum<2>(t < tasks ? static_cast<int>(args.layout.period) : 0,
                                      [&](int i) { return args.totals[t + i * tasks]; });
      if (share.leads && t < tasks) scalars += finish_task(args, t, sum);
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
  if (operand.row_stride == 0) {  // of a single row, too
    reach = Reach::kColumns;
  } else if (operand && rows && columns && layout.width % layout.vector == 0 &&
             aligned(operand.data, bytes)) {
    reach = Reach::kVectors;
  } else if (operand.column_stride == 0 && call.tasks >= layout.vector) {
    reach = Reach::kRows;
  }
  return {operand.data, operand.row_stride, operand.column_stride,
          layout.period * operand.row_stride, reach};
}

// Whether an operand varies along columns; see varies().
bool is_along(const Operand& operand) { return operand && operand.row_stride != 0; }

Path path_of(const PointwiseCall& call) {
  if (call.reduction == Reduction::kNone) return Path::kGeneral;
  const bool plain = !call.pos_weight && !call.mask && !call.weight && !call.sample_weight;
  const bool two = is_along(call.weight) && call.sample_weight;
  const bool usual = !two && !is_along(call.pos_weight) &&
                     is_along(call.sample_weight) == static_cast<bool>(call.sample_weight);
  if (!usual) return Path::kGeneral;
  if (is_byte(call.target.dtype)) return plain ? Path::kBytes : Path::kWeightedBytes;
  if (call.target.dtype != ScalarType::Float) return Path::kGeneral;
  return plain ? Path::kFloats : Path::kWeightedFloats;
}

// The kernels divide by what is at least 2^-126, or 0.
Packed<float> flushed(const Packed<double>& given) {
  Packed<float> params;
  for (int i = 0; i < kMaxParams; ++i) {
    const auto value = static_cast<float>(given.values[i]);
    params.values[i] = std::fabs(value) < 0x1p-126f ? 0.0f : value;
  }
  return params;
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
  const auto smoothing = static_cast<float>(call.params.smoothing());
  return {layout,
          call.logits.data,
          call.target.data,
          call.target.dtype,
          layout.width % vector == 0 && aligned(call.logits.data, 16) &&
              aligned(call.target.data, is_byte(call.target.dtype) ? vector : 16),
          call.classification ? 0.0f : -std::numeric_limits<float>::infinity(),
          1 - smoothing,
          0.5f * smoothing,
          flushed(call.params),
          strided(call.mask, call, layout, vector),
          strided(call.weight, call, layout, 16),
          strided(call.sample_weight, call, layout, 16),
          strided(call.pos_weight, call, layout, 16),
          strided(is_along(call.weight) ? call.weight : call.sample_weight, call, layout, 16),
          static_cast<const float*>(call.task_weight)};
}

// Of a block that adds `parts` partial sums of each column: a few for each thread, if there are so
// many threads.
int warps_for(int columns, int64_t parts) {
  constexpr int64_t kEach = 8;
  const auto lanes = std::bit_ceil(static_cast<uint64_t>(divide_up(parts, kEach)));
  const auto threads = static_cast<int64_t>(std::min<uint64_t>(lanes, kLanes)) * columns;
  return static_cast<int>(std::clamp<int64_t>(divide_up(threads, kLanes), 1, kLanes));
}

// The forward's scratch: partial sums; totals of slots, or scalars of groups. It belongs to the
// call, since a global one would race between streams and between replays of a graph.
Tensor allocate_scratch(const Tensor& like, Path path, ForwardArgs& args) {
  const Layout& layout = args.layout;
  args.folds = layout.tasks > 0 && layout.tasks <= kFewTasks;
  args.columns = static_cast<int>(args.folds ? layout.tasks : kLanes * layout.vector);
  args.groups = args.folds ? 1 : layout.tiles;
  args.parts = args.folds ? layout.blocks() : layout.splits;
  const int64_t totals = args.by_task() ? 0 : layout.width;
  const int64_t scalars = args.by_task() ? args.groups : 0;
  const int64_t partials = args.groups * args.parts * args.columns;
  const bool weighted = !is_plain(path) && args.weighted_mean;
  const size_t bytes = totals * sizeof(Totals) + scalars * sizeof(Scalars) +
                       partials * (sizeof(Partial) + (weighted ? sizeof(float) : 0));
  Tensor scratch = new_tensor(like, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  args.totals = data_of<Totals>(scratch);
  args.scalars = reinterpret_cast<Scalars*>(args.totals + totals);
  args.partials = reinterpret_cast<Partial*>(args.scalars + scalars);
  args.partial_weights = weighted ? reinterpret_cast<float*>(args.partials + partials) : nullptr;
  return scratch;
}

}  // namespace

void Cuda::forward(const PointwiseCall& call, const PointwiseResult& result) {
  require_narrow(call.compute);
  const Launcher launch(result.loss);
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
    const Tensor scratch = allocate_scratch(result.loss, path, args);
    run_forward<Logit>(launch, call.loss, path, args);
    const bool by_task = args.by_task();
    if (args.parts > 1 || !by_task) {
      launch.next(pointwise_sums_kernel, args.groups, warps_for(args.columns, args.parts), args);
    }
    if (args.groups > 1 || !by_task) launch.next(pointwise_finish_kernel, 1, kLanes, args);
  });
}

void Cuda::backward(const PointwiseCall& call, const Upstream& upstream, const Tensor& gradient) {
  require_narrow(call.compute);
  const Launcher launch(gradient);
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
}

}  // namespace mtlfast
