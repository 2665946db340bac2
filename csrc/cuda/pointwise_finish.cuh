// From sums to the outputs of the forward op: of columns, tasks and scalars.
#pragma once

#include "pointwise.cuh"

namespace mtlfast {

// The sums of task t are complete. Returns what it adds to the scalars.
__device__ inline Scalars finish_task(const ForwardArgs& args, int64_t t, const Totals& sum) {
  const double labelled = static_cast<double>(sum.count > 1 ? sum.count : 1);
  const double mean = sum.loss / labelled;
  const bool own = args.reduction == Reduction::kTaskMean;
  const double weight = args.task_weight != nullptr ? args.task_weight[t] : 1.0;
  args.task_loss[t] = static_cast<float>(mean);
  args.count[t] = sum.count;
  if (args.reduction != Reduction::kMean) {
    const double rows = static_cast<double>(args.samples > 1 ? args.samples : 1);
    const double shared = args.reduction == Reduction::kBatchMean ? rows : 1.0;
    args.denominator[t] = static_cast<float>(own ? labelled : shared);
  }
  return {sum.count > 0 ? weight * (own ? mean : sum.loss) : 0.0,
          args.weighted_mean ? sum.weight : static_cast<double>(sum.count)};
}

// The scalars are complete.
__device__ inline void finish_scalars(const ForwardArgs& args, const Scalars& sum) {
  double divisor = 1;
  if (args.reduction == Reduction::kBatchMean) divisor = static_cast<double>(args.samples);
  if (args.reduction == Reduction::kMean) divisor = sum.divisor;
  if (divisor == 0) divisor = 1;
  const int thread = thread_number();
  if (thread == 0 && args.loss != nullptr) *args.loss = static_cast<float>(sum.loss / divisor);
  if (args.reduction != Reduction::kMean) return;
  for (int64_t t = thread; t < args.layout.tasks; t += block_threads()) {
    args.denominator[t] = static_cast<float>(divisor);
  }
}

// How a block's threads share `width` columns, at most one for each thread: neighbours in a warp, a
// power of 2 of them, add up one column, and the first of them has the sum. Thus all columns are on
// their way at once, and little code is run: its instructions are read for the first time, which
// costs more than what they do.
struct Share {
  int lanes, column, lane;
  bool leads;

  __device__ explicit Share(int width) {
    const int bits = 31 - __clz(min(block_threads() / width, int{kLanes}));
    lanes = 1 << bits;
    column = thread_number() >> bits;
    lane = thread_number() & (lanes - 1);
    leads = lane == 0 && column < width;
    if (column >= width) column = width - 1;
  }

  // The sum of get(i), i < count; kBatch of them are on their way at once.
  template <int kBatch, class Get>
  __device__ Totals sum(int count, const Get& get) const {
    Totals sum;
#pragma unroll 1
    for (int i = lane; i < count; i += kBatch * lanes) {
      decltype(get(0)) values[kBatch] = {};
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        if (i + k * lanes < count) values[k] = get(i + k * lanes);
      }
#pragma unroll
      for (int k = 0; k < kBatch; ++k) sum += values[k];
    }
#pragma unroll 1
    for (int other = lanes / 2; other > 0; other /= 2) {
      sum.loss += __shfl_xor_sync(0xffffffffu, sum.loss, other);
      sum.weight += __shfl_xor_sync(0xffffffffu, sum.weight, other);
      sum.count += __shfl_xor_sync(0xffffffffu, static_cast<long long>(sum.count), other);
    }
    return sum;
  }
};

// Finishes task t, where the thread leads, and the scalars of the block; all of them where there is
// no other group.
__device__ inline void finish_tasks(const ForwardArgs& args, int64_t group, int64_t t, bool leads,
                                    const Totals& sum) {
  Scalars scalars;
  if (leads && t < args.layout.tasks) scalars = finish_task(args, t, sum);
  scalars = block_sum(scalars);
  if (args.groups == 1) return finish_scalars(args, scalars);
  if (thread_number() == 0) args.scalars[group] = scalars;
}

}  // namespace mtlfast
