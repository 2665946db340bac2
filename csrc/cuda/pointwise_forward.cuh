// The forward kernels: elements, then per-task sums and counts, then the loss.
//
// pointwise_forward_kernel: every block sums its split of a tile, and folds slots of few tasks.
//
// pointwise_sums_kernel: every group of blocks adds its splits, and finishes tasks where it can.
//
// pointwise_finish_kernel: folds slots onto tasks, or adds the groups; then the loss.
//
// Each finishes where it is alone and its columns are tasks: a single block does all three, a
// single group the last two.
#pragma once

#include "pointwise_finish.cuh"
#include "pointwise_walk.cuh"

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
  int column = thread;
  bool leads = thread < Sums::kSlots;
  if (args.folds) {  // slot s is of task (begin + s) % T
    const auto tasks = static_cast<int>(args.layout.tasks), shift = static_cast<int>(begin % tasks);
    const auto slots = static_cast<int>(min(args.layout.width - begin, int64_t{Sums::kSlots}));
    const Share share(tasks);
    const int first = share.column < shift ? share.column - shift + tasks : share.column - shift;
    sum = share.sum<1>((slots - first + tasks - 1) / tasks,
                       [&](int i) { return scratch[first + i * tasks]; });
    column = share.column;
    leads = share.leads;
  } else if (leads) {
    sum = scratch[thread];
  }
  const int64_t group = args.folds ? 0 : lane.tile, part = args.folds ? blockIdx.x : lane.split;
  if (args.parts == 1 && args.by_task()) {
    return finish_tasks(args, group, begin + column, leads, sum);
  }
  if (leads) {
    const int64_t at = (group * args.columns + column) * args.parts + part;
    args.partials[at] = {static_cast<float>(sum.loss), static_cast<uint32_t>(sum.count)};
    if constexpr (kWeighted) {
      if (args.weighted_mean) args.partial_weights[at] = static_cast<float>(sum.weight);
    }
  }
}

template <class Functor, class Logit, Path kPath, bool kSided>
__global__ void __launch_bounds__(kThreads, shape<Functor, Logit, kPath, kSided, false>().resident)
    pointwise_forward_kernel(const __grid_constant__ ForwardArgs args) {
  constexpr int V = kVector<Logit, kPath>;
  constexpr int kBatch = shape<Functor, Logit, kPath, kSided, false>().unroll;
  constexpr bool kGeneral = kPath == Path::kGeneral;
  constexpr bool kWeighted = Functor::kWeightedMean && !is_plain(kPath);
  let_next_kernel_start();
  __shared__ Cells<V, kWeighted> cells;
  const Lane<V> lane(args.layout, args.vector);
  const Columns<V, is_plain(kPath)> columns(args, lane);
  const Evaluated<Functor, sizeof(Logit) == 2> functor(args);
  Walk<kBatch, V> walk(args, lane);
  for (bool first = true; first || !walk.done(); first = false) {
    float sums[V] = {}, weights[V] = {};
    uint32_t counts[V / 4] = {};  // a byte for each slot
    static_assert(kRun + kBatch < 256);
    walk.run(kRun, [&](auto rows, auto full, int first, int64_t start) {
      constexpr int kRows = decltype(rows)::value;
      constexpr bool kFull = decltype(full)::value;
      const int valid = kFull ? V : lane.valid(args.layout, first);
      Batch<Logit, kPath, kRows, kFull> batch;
      batch.read(args, lane, first, start, valid);
      each_row<kSided>(batch, args, lane, columns, valid, [&](int u, const auto& labels) {
        [[maybe_unused]] const int row = first + u * kWarps;
        [[maybe_unused]] const int64_t index = start + u * walk.stride;
        const auto& extras = batch.extras[u];
        float x[V], positive[V];
        batch.logits[u].decode(x);
        extras.get_positive(args, lane, columns, positive);
        functor.value(x, labels, positive);
        extras.apply_weights(args, lane, columns, x);
#pragma unroll
        for (int j = 0; j < V; ++j) {
          if (labels.present(j, args.least)) sums[j] += x[j];
        }
#pragma unroll
        for (int i = 0; i < V / 4; ++i) counts[i] += labels.presence(i, args.least);
        if constexpr (kWeighted) {
          if (args.weighted_mean) {
            float weight[V];
            extras.get_weight(args, lane, columns, weight);
#pragma unroll
            for (int j = 0; j < V; ++j) {
              weights[j] += labels.present(j, args.least) ? weight[j] : 0.0f;
            }
          }
        }
        if constexpr (kGeneral) {
          if (args.elements == nullptr) return;
#pragma unroll
          for (int j = 0; j < V; ++j) x[j] = labels.present(j, args.least) ? x[j] : 0.0f;
          if (args.task_weight != nullptr) {
            Loaded<V, kFull> weight;
            weight.read_elements({args.task_weight, 0, 1, 0, Reach::kElements}, args, lane, row,
                                 valid);
#pragma unroll
            for (int j = 0; j < V; ++j) {
              x[j] = labels.present(j, args.least) ? x[j] * weight.values[j] : 0.0f;
            }
          }
          Vector<Logit, V> packed;
          packed.encode(x);
          packed.write(args.elements, index, valid, kFull || row < lane.full);
        }
      });
    });
    cells.add(sums, weights, counts, first);
  }
  finish(args, lane, cells);
}

template <class Logit>
void run_forward(const Launcher& launch, Loss loss, Path path, const ForwardArgs& args) {
  visit_kernel(loss, path, args, [&](auto functor, auto path, auto sided) {
    launch(pointwise_forward_kernel<decltype(functor), Logit, path(), sided()>,
           args.layout.blocks(), args);
  });
}

}  // namespace mtlfast
