// From sums to the outputs of the forward op: of columns, tasks and scalars.
#pragma once

#include "pointwise.cuh"

namespace mtlfast {

// The sums of task t are complete. Returns what it adds to the scalars.
__device__ inline Totals finish_task(const ForwardArgs& args, int64_t t, const Totals& sum) {
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
  Totals scalars = sum;
  scalars.loss = sum.count > 0 ? weight * (own ? mean : sum.loss) : 0.0;
  return scalars;
}

// The scalars are complete.
__device__ inline void finish_scalars(const ForwardArgs& args, const Totals& sum) {
  double divisor = 1;
  if (args.reduction == Reduction::kBatchMean) divisor = static_cast<double>(args.samples);
  if (args.reduction == Reduction::kMean) {
    divisor = args.weighted_mean ? sum.weight : static_cast<double>(sum.count);
  }
  if (divisor == 0) divisor = 1;
  const int thread = thread_number();
  if (thread == 0 && args.loss != nullptr) *args.loss = static_cast<float>(sum.loss / divisor);
  if (args.reduction != Reduction::kMean) return;
  for (int64_t t = thread; t < args.layout.tasks; t += block_threads()) {
    args.denominator[t] = static_cast<float>(divisor);
  }
}

// A block adds, for each of `width` columns, the values get(column, i), i < count; kBatch of them
// are on their way at once. Its first `width` threads get the sums.
template <int kBatch, class Get>
__device__ Totals sum_columns(int64_t count, int width, Totals* scratch, const Get& get) {
  const int thread = thread_number(), column = thread % width;
  const auto groups =
      static_cast<int>(min(max(count, int64_t{1}), int64_t{block_threads() / width}));
  Totals sum;
  if (thread < groups * width) {
    for (int64_t i = thread / width; i < count; i += kBatch * groups) {
      decltype(get(0, 0)) values[kBatch] = {};
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        if (i + k * groups < count) values[k] = get(column, i + k * groups);
      }
#pragma unroll
      for (int k = 0; k < kBatch; ++k) sum += values[k];
    }
  }
  if (groups == 1) return sum;
  __syncthreads();
  scratch[thread] = sum;
  __syncthreads();
  if (groups <= 8) {
    for (int group = 1; group < groups && thread < width; ++group) {
      sum += scratch[group * width + thread];
    }
    return sum;
  }
  // A warp for each column; where its sum goes, it alone has read.
  for (int of = threadIdx.y; of < width; of += blockDim.y) {
    sum = Totals();
    for (int group = threadIdx.x; group < groups; group += kLanes) {
      sum += scratch[group * width + of];
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) scratch[of] = sum;
  }
  __syncthreads();
  return thread < width ? scratch[thread] : Totals();
}

// Finishes the tasks from `first` on, whose sums the first `width` threads have, and the scalars of
// the block; all of them where there is no other group.
__device__ inline void finish_tasks(const ForwardArgs& args, int64_t group, int64_t first,
                                    int width, const Totals& sum) {
  const int64_t t = first + thread_number();
  Totals scalars;
  if (thread_number() < width && t < args.layout.tasks) scalars = finish_task(args, t, sum);
  scalars = block_sum(scalars);
  if (args.groups == 1) return finish_scalars(args, scalars);
  if (thread_number() == 0) args.totals[group] = scalars;
}

}  // namespace mtlfast
