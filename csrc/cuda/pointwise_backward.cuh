// The backward kernel: gradient = coefficient x derivative, recomputed from logits and targets.
#pragma once

#include "pointwise.cuh"

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
    const int thread = threadIdx.y * kLanes + threadIdx.x;
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
__device__ void read_upstream(const BackwardArgs& args, const Lane<V>& lane, int64_t row, int valid,
                              float (&values)[V]) {
  Packed<Logit> packed;
  if (args.upstream.flat) {
    packed.read(args.upstream.data, row * args.layout.width + lane.slot, valid, true);
    packed.decode(values);
    return;
  }
  const auto* data = static_cast<const Logit*>(args.upstream.data);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const Place at = lane.at(args.layout, row, j);
    const int64_t index =
        at.row * args.upstream.row_stride + at.column * args.upstream.column_stride;
    values[j] = data != nullptr && j < valid ? widen(data[index]) : 0.0f;
  }
}

template <class Functor, class Logit, bool kByteTarget, bool kPlain>
__global__ void __launch_bounds__(kThreads)
    pointwise_backward_kernel(const __grid_constant__ BackwardArgs args) {
  constexpr int V = kVector<Logit>, kRows = kUnroll<Logit, kByteTarget, kPlain>;
  __shared__ Coefficients<V> coefficients;
  const Lane<V> lane(args.layout);
  coefficients.compute(args, lane.tile);
  float p[V], scale[V];
  read_pos_weight(args, lane, p);
#pragma unroll
  for (int j = 0; j < V; ++j) scale[j] = coefficients.scale[threadIdx.x * V + j];
  const bool vector = args.layout.width % V == 0;
  for (int64_t row = lane.row; row < lane.end; row += kRows * kWarps) {
    Batch<Logit, kByteTarget, kRows> batch;
    batch.read(args, lane, row);
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const int64_t own = row + u * kWarps;
      const int valid = lane.valid(args.layout, own);
      if (valid <= 0) break;
      float x[V], y[V], factor[V];
      batch.decode(args, u, valid, x, y);
      Extras<V> extras;
#pragma unroll
      for (int j = 0; j < V; ++j) factor[j] = scale[j];
      if constexpr (!kPlain) {
        extras.read(args, lane, own, valid);
        if (args.pos_weight.data != nullptr && args.pos_weight.row_stride != 0) {
          read_floats(args.pos_weight, args, lane, own, valid, p);
        }
        if (args.none) {
          float upstream[V];
          read_upstream<Logit>(args, lane, own, valid, upstream);
#pragma unroll
          for (int j = 0; j < V; ++j) {
            factor[j] = factor[j] * upstream[j] + coefficients.shift[threadIdx.x * V + j];
          }
        }
      }
#pragma unroll
      for (int j = 0; j < V; ++j) {
        x[j] = factor[j] * Functor::grad(x[j], args.keep * y[j] + args.add, p[j], args.params);
      }
      if constexpr (!kPlain) {
        extras.apply_mask(args, y);
        extras.apply_factor(args, x);
      }
#pragma unroll
      for (int j = 0; j < V; ++j) x[j] = y[j] >= args.least ? x[j] : 0.0f;
      Packed<Logit> packed;
      packed.encode(x);
      packed.write(args.gradient, own * args.layout.width + lane.slot, valid, vector);
    }
  }
}

template <class Logit>
void run_backward(const Launcher& launch, Loss loss, bool plain, const BackwardArgs& args) {
  const bool bytes = is_byte(args.target_dtype);
  visit_loss(loss, [&](auto functor) {
    using F = decltype(functor);
    const auto kernel = bytes ? (plain ? pointwise_backward_kernel<F, Logit, true, true>
                                       : pointwise_backward_kernel<F, Logit, true, false>)
                              : (plain ? pointwise_backward_kernel<F, Logit, false, true>
                                       : pointwise_backward_kernel<F, Logit, false, false>);
    launch(kernel, args.layout.blocks(), args);
  });
}

}  // namespace mtlfast
