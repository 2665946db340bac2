// The backward kernel: gradient = coefficient x derivative, recomputed from logits and targets.
#pragma once

#include "pointwise_walk.cuh"

namespace mtlfast {

// For the slots of a tile: dS_t's coefficient, or, where the upstream gradient has a value for
// every element ("none"), what multiplies it and what is added.
template <int V>
struct Coefficients {
  static constexpr int kSlots = kLanes * V;
  alignas(16) float scale[kSlots];
  alignas(16) float shift[kSlots];

  // A slot for each thread: V slots for each would repeat the divisions in every warp.
  __device__ void compute(const BackwardArgs& args, int64_t tile) {
    const int thread = thread_number();
    const int64_t slot = tile * kSlots + thread;
    if (thread < kSlots && slot < args.layout.width) {
      const int64_t t = slot % args.layout.tasks;
      const float weight = args.task_weight != nullptr ? args.task_weight[t] : 1.0f;
      float factor = args.none ? 1.0f : 0.0f, task = 0;
      if (args.grad_loss != nullptr) factor = *args.grad_loss / args.denominator[t];
      if (args.grad_task_loss != nullptr) {
        task = args.grad_task_loss[t] / static_cast<float>(args.count[t] > 1 ? args.count[t] : 1);
      }
      scale[thread] = args.none ? weight : weight * factor + task;
      shift[thread] = task;
    }
    __syncthreads();
  }
};

// The upstream gradient of V elements, zero where there is none.
template <class Logit, int V>
__device__ void read_upstream(const BackwardArgs& args, const Lane<V>& lane, int row, int64_t index,
                              int valid, float (&values)[V]) {
  Vector<Logit, V> packed;
  if (args.upstream.reach == Reach::kVectors && valid == V) {
    packed.read(args.upstream.data, index, valid, true);
    packed.decode(values);
    return;
  }
  const auto* data = static_cast<const Logit*>(args.upstream.data);
  Cursor<V> cursor(args.upstream, args.layout, lane, row);
#pragma unroll
  for (int j = 0; j < V; ++j, cursor.next()) {
    values[j] = data != nullptr && j < valid ? widen(data[cursor.offset]) : 0.0f;
  }
}

template <class Functor, class Logit, Path kPath, bool kSided>
__global__ void __launch_bounds__(kThreads, shape<Functor, Logit, kPath, kSided, true>().resident)
    pointwise_backward_kernel(const __grid_constant__ BackwardArgs args) {
  constexpr int V = kVector<Logit, kPath>;
  constexpr int kBatch = shape<Functor, Logit, kPath, kSided, true>().unroll;
  constexpr bool kGeneral = kPath == Path::kGeneral;
  __shared__ Coefficients<V> coefficients;
  const Lane<V> lane(args.layout, args.vector);
  coefficients.compute(args, lane.tile);
  const Columns<V, is_plain(kPath)> columns(args, lane);
  const Evaluated<Functor, sizeof(Logit) == 2> functor(args);
  float scale[V];
#pragma unroll
  for (int j = 0; j < V; ++j) scale[j] = coefficients.scale[threadIdx.x * V + j];
  Walk<kBatch, V> walk(args, lane);
  walk.run(kAllRows, [&](auto rows, auto full, int first, int64_t start) {
    constexpr int kRows = decltype(rows)::value;
    constexpr bool kFull = decltype(full)::value;
    const int valid = kFull ? V : lane.valid(args.layout, first);
    Batch<Logit, kPath, kRows, kFull> batch;
    batch.read(args, lane, first, start, valid);
    each_row<kSided>(batch, args, lane, columns, valid, [&](int u, const auto& labels) {
      [[maybe_unused]] const int row = first + u * kWarps;
      [[maybe_unused]] const int64_t index = start + u * walk.stride;
      const auto& extras = batch.extras[u];
      float x[V], factor[V], positive[V];
      batch.logits[u].decode(x);
#pragma unroll
      for (int j = 0; j < V; ++j) factor[j] = scale[j];
      if constexpr (kGeneral) {
        if (args.none) {
          float upstream[V];
          read_upstream<Logit>(args, lane, row, index, valid, upstream);
#pragma unroll
          for (int j = 0; j < V; ++j) {
            factor[j] = factor[j] * upstream[j] + coefficients.shift[threadIdx.x * V + j];
          }
        }
      }
      extras.get_positive(args, lane, columns, positive);
      functor.grad(x, labels, positive);
#pragma unroll
      for (int j = 0; j < V; ++j) x[j] *= factor[j];
      extras.apply_weights(args, lane, columns, x);
#pragma unroll
      for (int j = 0; j < V; ++j) x[j] = labels.present(j, args.least) ? x[j] : 0.0f;
      Vector<Logit, V> packed;
      packed.encode(x);
      packed.write(args.gradient, index, valid, kFull || row < lane.full);
    });
  });
}

template <class Logit>
void run_backward(const Launcher& launch, Loss loss, Path path, const BackwardArgs& args) {
  visit_kernel(loss, path, args, [&](auto functor, auto path, auto sided) {
    launch(pointwise_backward_kernel<decltype(functor), Logit, path(), sided()>,
           args.layout.blocks(), args);
  });
}

}  // namespace mtlfast
