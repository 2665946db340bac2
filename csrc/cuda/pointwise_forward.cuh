// The forward kernels: elements, then per-task sums and counts, then the loss.
//
// pointwise_forward_kernel: every block sums its split of a tile, and folds slots of few tasks.
//
// pointwise_sums_kernel: every group of blocks adds its splits, and finishes tasks where it can.
//
// pointwise_finish_kernel: folds slots onto tasks, or adds the groups; then the loss.
//
// Each finishes where it is alone: a single block does all three, a single group the last two.
#pragma once

#include "pointwise_finish.cuh"
#include "pointwise_operands.cuh"

namespace mtlfast {

// From the cells of a block, filled, to its partial sums, or to the outputs.
template <int V, bool kWeighted>
__device__ void finish(const ForwardArgs& args, const Lane<V>& lane, Cells<V, kWeighted>& cells) {
  using Sums = Cells<V, kWeighted>;
  static_assert(sizeof(Sums) >= kThreads * sizeof(Totals) && Sums::kSlots <= kThreads);
  auto* scratch = reinterpret_cast<Totals*>(&cells);
  const int thread = thread_number();
  const int64_t begin = lane.tile * Sums::kSlots;
  __syncthreads();
  Totals sum = cells.combine(thread);
  __syncthreads();
  if (thread < Sums::kSlots) scratch[Sums::slot(thread)] = sum;
  __syncthreads();
  if (args.folds) {  // slot s is of task (begin + s) % T
    const auto tasks = static_cast<int>(args.layout.tasks), shift = static_cast<int>(begin % tasks);
    const auto slots = static_cast<int>(min(args.layout.width - begin, int64_t{Sums::kSlots}));
    sum = sum_columns<1>(divide_up(slots, tasks), tasks, scratch, [&](int column, int64_t i) {
      const int first = column < shift ? column - shift + tasks : column - shift;
      const int slot = first + static_cast<int>(i) * tasks;
      return slot < slots ? scratch[slot] : Totals();
    });
  } else if (thread < Sums::kSlots) {
    sum = scratch[thread];
  }
  const int64_t group = args.folds ? 0 : lane.tile, part = args.folds ? blockIdx.x : lane.split;
  if (args.parts == 1 && args.by_task()) return finish_tasks(args, group, begin, args.columns, sum);
  if (thread < args.columns) {
    const int64_t at = (group * args.parts + part) * args.columns + thread;
    args.partials[at] = {static_cast<float>(sum.loss), static_cast<uint32_t>(sum.count)};
    if constexpr (kWeighted) {
      if (args.weighted_mean) args.partial_weights[at] = static_cast<float>(sum.weight);
    }
  }
}

template <class Functor, class Logit, Path kPath, bool kWhole>
__global__ void __launch_bounds__(kThreads, kResident<Functor, Logit, kPath, kWhole>)
    pointwise_forward_kernel(const __grid_constant__ ForwardArgs args) {
  constexpr int V = kVector<Logit, kPath>;
  constexpr bool kGeneral = kPath == Path::kGeneral;
  constexpr bool kWeighted = Functor::kWeightedMean && !is_plain(kPath);
  __shared__ Cells<V, kWeighted> cells;
  const Lane<V> lane(args.layout, args.vector);
  Extras<V, is_plain(kPath)> extras(args, lane);
  const Evaluated<Functor, kWhole, sizeof(Logit) == 2> functor(args.params);
  Walk<kUnroll<Logit, kPath>, V> walk(args, lane);
  for (bool first = true; first || !walk.done(); first = false) {
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
        batch.decode(args, u, valid, x, y);
        extras.read(row, index, valid);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const float target = args.keep * y[j] + args.add;
          x[j] = functor.value(x[j], target, extras.pos_weight(j));
        }
        extras.apply_mask(y);
        extras.apply_factor(x);
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
            extras.read_weight(row, index, valid, weight);
#pragma unroll
            for (int j = 0; j < V; ++j) weights[j] += y[j] >= args.least ? weight[j] : 0.0f;
          }
        }
        if constexpr (kGeneral) {
          if (args.elements == nullptr) continue;
          if (args.task_weight != nullptr) {
            float weight[V];
            const Strided task_weight{args.task_weight, 0, 1, Reach::kColumns};
            read_floats(task_weight, args, lane, row, index, valid, weight);
#pragma unroll
            for (int j = 0; j < V; ++j) x[j] = y[j] >= args.least ? x[j] * weight[j] : 0.0f;
          }
          Packed<Logit, V> packed;
          packed.encode(x);
          packed.write(args.elements, index, valid, kFull || row < lane.full);
        }
      }
    });
    cells.add(sums, weights, counts, first);
  }
  finish(args, lane, cells);
  let_next_kernel_start();
}

template <class Logit>
void run_forward(const Launcher& launch, Loss loss, Path path, const ForwardArgs& args) {
  visit_kernel(loss, path, args, [&](auto functor, auto path, auto whole) {
    launch(pointwise_forward_kernel<decltype(functor), Logit, path(), whole()>,
           args.layout.blocks(), args);
  });
}

}  // namespace mtlfast
