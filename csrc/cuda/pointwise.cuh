// The pointwise kernels: what they are called with, and what forward and backward share.
#pragma once

#include "pointwise.h"
#include "reduce.cuh"
#include "vector.cuh"

namespace mtlfast {

// Float sums over more super-rows than this go through double; see Cells.
constexpr int kRun = 16;

// Super-rows that a warp loads before it computes: 80 to 128 bytes in flight for each thread.
template <class Logit, bool kByteTarget, bool kPlain>
constexpr int kUnroll = kByteTarget && kPlain ? 4 : 2;

// An (N, T) operand, or null data.
struct Strided {
  const void* data;
  int64_t row_stride, column_stride;
  bool flat;  // contiguous, and aligned for vectors
};

struct PointwiseArgs {
  Layout layout;
  const void *logits, *target;
  ScalarType target_dtype;
  bool vector_logits, vector_target;  // aligned: whole vectors may be read
  float least;                        // smaller targets, and NaN, are missing
  float keep, add;                    // label smoothing: y <- keep y + add
  Params<float> params;
  Strided mask, weight, sample_weight, pos_weight;
  const float* task_weight;  // (T,), or null
};

struct ForwardArgs : PointwiseArgs {
  Reduction reduction;
  bool weighted_mean;
  int64_t samples;
  void* elements;  // (N, T) for "none", else null
  float *loss, *task_loss, *denominator;
  int64_t* count;
  Partials partials;
  Totals* totals;     // (width,) of the slots, or (tiles,) where the period is 1
  uint32_t* tickets;  // one for each tile, and one for them all; zero at the start
};

struct BackwardArgs : PointwiseArgs {
  Strided upstream;             // (N, T) for "none", else null data
  const float* grad_loss;       // () otherwise, or null
  const float* grad_task_loss;  // (T,), or null
  const float* denominator;
  const int64_t* count;
  bool none;
  void* gradient;
};

// One byte each: int8, uint8, bool.
inline bool is_byte(ScalarType dtype) {
  return dtype == ScalarType::Char || dtype == ScalarType::Byte || dtype == ScalarType::Bool;
}

// Defined for float, BFloat16 and Half, each in its own file.
template <class Logit>
void run_forward(const Launcher& launch, Loss loss, bool plain, const ForwardArgs& args);
template <class Logit>
void run_backward(const Launcher& launch, Loss loss, bool plain, const BackwardArgs& args);

template <bool kByteTarget, int V>
using Target = std::conditional_t<kByteTarget, ByteTarget<V>, WideTarget<V>>;

// Logits and targets of the super-rows that a warp works on together.
template <class Logit, bool kByteTarget, int kRows>
struct Batch {
  static constexpr int V = kVector<Logit>;
  Packed<Logit> logits[kRows];
  Target<kByteTarget, V> target[kRows];

  __device__ void read(const PointwiseArgs& args, const Lane<V>& lane, int64_t first) {
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const int64_t row = first + u * kWarps, index = row * args.layout.width + lane.slot;
      const int valid = lane.valid(args.layout, row);
      logits[u].read(args.logits, index, valid, args.vector_logits);
      target[u].read(args.target, args.target_dtype, index, valid, args.vector_target);
    }
  }

  // NaN stands for what lies beyond the end.
  __device__ void decode(const PointwiseArgs& args, int u, int valid, float (&x)[V],
                         float (&y)[V]) const {
    logits[u].decode(x);
    target[u].decode(args.target_dtype, y);
    if (valid < V) {
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = j < valid ? y[j] : kMissing;
    }
  }
};

// V consecutive values of a float operand.
template <int V>
__device__ void read_floats(const Strided& operand, const PointwiseArgs& args, const Lane<V>& lane,
                            int64_t row, int valid, float (&values)[V]) {
  const auto* data = static_cast<const float*>(operand.data);
  if (operand.flat && valid == V) {
    const int64_t index = row * args.layout.width + lane.slot;
#pragma unroll
    for (int j = 0; j < V; j += 4) read_vector(data + index + j, values + j);
    return;
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const Place at = lane.at(args.layout, row, j);
    if (j < valid)
      values[j] = data[at.row * operand.row_stride + at.column * operand.column_stride];
  }
}

// What a plain call does without: the mask and the factors of one super-row. They are read before
// the loss is computed and applied after it, so that the loss hides their latency.
template <int V>
struct Extras {
  Bytes<V> present;
  float factor[V];

  __device__ void read(const PointwiseArgs& args, const Lane<V>& lane, int64_t row, int valid) {
    if (args.mask.data != nullptr) {
      const auto* data = static_cast<const uint8_t*>(args.mask.data);
      if (args.mask.flat) {
        present.read(data, row * args.layout.width + lane.slot, valid, true);
      } else {
        present.clear();
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const Place at = lane.at(args.layout, row, j);
          if (j < valid) {
            present.set(j,
                        data[at.row * args.mask.row_stride + at.column * args.mask.column_stride]);
          }
        }
      }
    }
    if (args.weight.data != nullptr) read_floats(args.weight, args, lane, row, valid, factor);
    if (args.sample_weight.data == nullptr) return;
    float weight[V];
    read_floats(args.sample_weight, args, lane, row, valid, weight);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      factor[j] = args.weight.data != nullptr ? factor[j] * weight[j] : weight[j];
    }
  }

  // Missing labels become NaN.
  __device__ void apply_mask(const PointwiseArgs& args, float (&y)[V]) const {
    if (args.mask.data == nullptr) return;
#pragma unroll
    for (int j = 0; j < V; ++j) y[j] = present.any(j) ? y[j] : kMissing;
  }
  __device__ void apply_factor(const PointwiseArgs& args, float (&values)[V]) const {
    if (args.weight.data == nullptr && args.sample_weight.data == nullptr) return;
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] *= factor[j];
  }
};

// The positive weights of the slots, where they don't change from row to row.
template <int V>
__device__ void read_pos_weight(const PointwiseArgs& args, const Lane<V>& lane, float (&p)[V]) {
  const auto* data = static_cast<const float*>(args.pos_weight.data);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    p[j] = 1;
    if (data != nullptr && args.pos_weight.row_stride == 0 && j < lane.left) {
      p[j] = data[lane.at(args.layout, 0, j).column * args.pos_weight.column_stride];
    }
  }
}

}  // namespace mtlfast
