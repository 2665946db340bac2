// The forward kernel: elements, then per-task sums and counts, then the loss, in one launch.
//
//   every block             sums its split of a tile                      -> partials
//   last block of a tile    adds the splits                               -> totals
//   last of those           folds slots onto tasks, adds the tasks        -> outputs
//
// Where the period is 1, slots are tasks: the last block of each tile finishes its own tasks, and
// only the scalars are left to the very last.
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

// Folds the slots onto tasks, task t being slots t, t + T, ...; several threads share a task where
// there are fewer tasks than threads.
__device__ inline Totals finish_folded(const ForwardArgs& args, Totals* scratch) {
  const int thread = threadIdx.y * kLanes + threadIdx.x;
  const int64_t tasks = args.layout.tasks;
  const int width = tasks < kThreads ? static_cast<int>(tasks) : kThreads;
  int groups = 1;
  while (groups * 2 * width <= kThreads) groups *= 2;
  Totals scalars;
  for (int64_t base = 0; base < tasks; base += width) {
    const int64_t t = base + thread % width;
    Totals sum;
    if (thread < groups * width && t < tasks) {
#pragma unroll 4
      for (int64_t i = thread / width; i < args.layout.period; i += groups) {
        sum += args.totals[t + i * tasks];
      }
    }
    sum = tree_sum(sum, width, groups, scratch);
    if (thread < width && t < tasks) scalars += finish_task(args, t, sum);
  }
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
  const int thread = threadIdx.y * kLanes + threadIdx.x;
  if (thread == 0 && args.loss != nullptr) *args.loss = static_cast<float>(sum.loss / divisor);
  if (args.reduction != Reduction::kMean) return;
  for (int64_t t = thread; t < args.layout.tasks; t += kThreads) {
    args.denominator[t] = static_cast<float>(divisor);
  }
}

// From the cells of a block, filled, to the outputs.
template <int V, bool kWeighted>
__device__ void finish(const ForwardArgs& args, const Lane<V>& lane, Cells<V, kWeighted>& cells) {
  using Sums = Cells<V, kWeighted>;
  static_assert(sizeof(Sums) >= kThreads * sizeof(Totals));
  auto* scratch = reinterpret_cast<Totals*>(&cells);
  const int thread = threadIdx.y * kLanes + threadIdx.x;
  const Layout& layout = args.layout;
  __syncthreads();
  Totals sum = cells.combine(thread);
  if (layout.splits > 1) {
    const int64_t first = lane.tile * layout.splits;
    args.partials.template store<V, kWeighted>(first + lane.split, thread, sum);
    if (!is_last(args.tickets + lane.tile, layout.splits)) return;
    args.partials.gather(first, static_cast<int>(layout.splits), cells);
    __syncthreads();
    sum = cells.combine(thread);
  }
  const int64_t slot = lane.tile * Sums::kSlots + Sums::slot(thread);
  const bool exists = thread < Sums::kSlots && slot < layout.width;
  uint32_t* const ticket = args.tickets + layout.tiles;
  if (layout.period > 1) {
    if (exists) args.totals[slot] = sum;
    if (!is_last(ticket, layout.tiles)) return;
    sum = finish_folded(args, scratch);
  } else {
    sum = exists ? finish_task(args, slot, sum) : Totals();
    if (!gather_blocks(sum, lane.tile, layout.tiles, args.totals, ticket, scratch)) return;
  }
  finish_scalars(args, tree_sum(sum, 1, kThreads, scratch));
}

template <class Functor, class Logit, Path kPath>
__global__ void __launch_bounds__(kThreads, kResident<kPath>)
    pointwise_forward_kernel(const __grid_constant__ ForwardArgs args) {
  constexpr int V = kVector<Logit, kPath>;
  constexpr bool kGeneral = kPath == Path::kGeneral;
  constexpr bool kWeighted = Functor::kWeightedMean && kGeneral;
  __shared__ Cells<V, kWeighted> cells;
  cells.clear();
  const Lane<V> lane(args.layout, args.vector);
  float p[V];
  read_pos_weight(args, lane, p);
  Walk<kUnroll<Logit, kPath>, V> walk(args, lane);
  while (!walk.done()) {
    float sums[V] = {}, weights[V] = {};
    uint32_t counts[V / 4] = {};  // a byte for each slot
    static_assert(kRun + kUnroll<Logit, kPath> < 256);
    walk.run(kRun, [&](auto rows, auto full, int first, int64_t start) {
      constexpr int kRows = decltype(rows)::value;
      constexpr bool kFull = decltype(full)::value;
      const int valid = kFull ? V : lane.valid(args.layout, first);
      Batch<Logit, kPath, kRows, kFull> batch;
      batch.read(args, lane, first, start, valid);
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        [[maybe_unused]] const int row = first + u * kWarps;
        [[maybe_unused]] const int64_t index = start + u * walk.stride;
        float x[V], y[V];
        [[maybe_unused]] Extras<V> extras;
        batch.decode(args, u, valid, x, y);
        if constexpr (kGeneral) {
          extras.read(args, lane, row, index, valid);
          read_pos_weight(args, lane, row, index, valid, p);
        }
#pragma unroll
        for (int j = 0; j < V; ++j) {
          x[j] = Functor::value(x[j], args.keep * y[j] + args.add, p[j], args.params);
        }
        if constexpr (kGeneral) {
          extras.apply_mask(args, y);
          extras.apply_factor(args, x);
        }
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const bool labelled = y[j] >= args.least;
          x[j] = labelled ? x[j] : 0.0f;
          sums[j] += x[j];
          counts[j / 4] += labelled ? 1u << 8 * (j % 4) : 0u;
        }
        if constexpr (kWeighted) {
          if (args.weighted_mean) {
            float weight[V];
            read_floats(args.weight, args, lane, row, index, valid, weight);
#pragma unroll
            for (int j = 0; j < V; ++j) weights[j] += y[j] >= args.least ? weight[j] : 0.0f;
          }
        }
        if constexpr (kGeneral) {
          if (args.elements == nullptr) continue;
          if (args.task_weight != nullptr) {
            float weight[V];
            const Strided task_weight{args.task_weight, 0, 1, false};
            read_floats(task_weight, args, lane, row, index, valid, weight);
#pragma unroll
            for (int j = 0; j < V; ++j) x[j] = y[j] >= args.least ? x[j] * weight[j] : 0.0f;
          }
          Packed<Logit, V> packed;
          packed.encode(args.dtype, x);
          packed.write(args.elements, index, valid, kFull || row < lane.full);
        }
      }
    });
    cells.add(sums, weights, counts);
  }
  finish(args, lane, cells);
}

template <class Logit>
void run_forward(const Launcher& launch, Loss loss, Path path, const ForwardArgs& args) {
  visit_loss(loss, [&](auto functor) {
    visit_path(path, [&](auto constant) {
      launch(pointwise_forward_kernel<decltype(functor), Logit, constant()>, args.layout.blocks(),
             args);
    });
  });
}

}  // namespace mtlfast
