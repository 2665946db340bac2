// The pointwise kernels: what they are called with, and what forward and backward share.
#pragma once

#include "pointwise.h"
#include "reduce.cuh"
#include "vector.cuh"

namespace mtlfast {

// Float sums over more super-rows than this go through double; see Cells.
constexpr int kRun = 16;
constexpr int kAllRows = std::numeric_limits<int>::max();

// Elements that a thread reads at once: 16 bytes of logits. The general path's registers go to its
// many operands: it reads 8 bytes of 16-bit logits.
template <class Logit, Path kPath>
constexpr int kVector = kPath == Path::kGeneral ? 4 : 16 / sizeof(Logit);

// Super-rows that a warp loads before it computes: 48 to 128 bytes in flight for each thread.
template <class Logit, Path kPath>
constexpr int kUnroll = kPath != Path::kGeneral && sizeof(Logit) == 4 ? 4 : 2;

// Blocks that a multiprocessor must hold: 24 warps, or 16 on the general path, cap the registers of
// a thread at 80 and 128. Without a bound ptxas spilled some kernels to reach 40 warps.
template <Path kPath>
constexpr int kResident = kPath == Path::kGeneral ? 2 : 3;

struct PointwiseArgs {
  Layout layout;
  const void *logits, *target;
  ScalarType dtype, target_dtype;
  bool vector;      // both are aligned: whole vectors may be read
  float least;      // smaller targets, and NaN, are missing
  float keep, add;  // label smoothing: y <- keep y + add
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

// Defined for float and Float16Bits, each in its own file.
template <class Logit>
void run_forward(const Launcher& launch, Loss loss, Path path, const ForwardArgs& args);
template <class Logit>
void run_backward(const Launcher& launch, Loss loss, Path path, const BackwardArgs& args);

// Calls visit(constant of the path).
template <class Visit>
void visit_path(Path path, const Visit& visit) {
  switch (path) {
    case Path::kBytes:
      return visit(std::integral_constant<Path, Path::kBytes>());
    case Path::kFloats:
      return visit(std::integral_constant<Path, Path::kFloats>());
    case Path::kGeneral:
      return visit(std::integral_constant<Path, Path::kGeneral>());
  }
}

// Logits and targets of kRows super-rows that a warp works on together: of whole vectors alone
// where kFull, else of a single super-row, which may be short or misaligned.
template <class Logit, Path kPath, int kRows, bool kFull>
struct Batch {
  static constexpr int V = kVector<Logit, kPath>;
  static_assert(kFull || kRows == 1);
  Packed<Logit, V> logits[kRows];
  Target<Logit, kPath, V> target[kRows];

  // `index`: of the thread's first element in super-row `row`.
  __device__ void read(const PointwiseArgs& args, const Lane<V>& lane, int row, int64_t index,
                       int valid) {
#pragma unroll
    for (int u = 0; u < kRows; ++u, index += kWarps * args.layout.width) {
      const bool vector = kFull || row < lane.full;
      logits[u].read(args.logits, index, valid, vector);
      target[u].read(args.target, args.target_dtype, index, valid, vector);
    }
  }

  // NaN stands for what lies beyond the end.
  __device__ void decode(const PointwiseArgs& args, int u, int valid, float (&x)[V],
                         float (&y)[V]) const {
    logits[u].decode(args.dtype, x);
    target[u].decode(args.target_dtype, y);
    if constexpr (!kFull) {
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = j < valid ? y[j] : kMissing;
    }
  }
};

// Calls step(rows, full, row, index) along a thread's super-rows: batches of kRows whole ones, then
// what is left one by one. Stops after `limit` super-rows, or a few more; goes on from there.
template <int kRows, int V>
struct Walk {
  const Lane<V>& lane;
  int64_t stride, index;
  int row;

  __device__ Walk(const PointwiseArgs& args, const Lane<V>& lane)
      : lane(lane),
        stride(kWarps * args.layout.width),
        index(lane.row * args.layout.width + lane.slot),
        row(lane.row) {}

  __device__ bool done() const { return row >= lane.end; }

  template <class Step>
  __device__ void run(int limit, const Step& step) {
#pragma unroll 1
    for (int rows = 0; rows < limit && !done();) {
      const bool full = row + (kRows - 1) * kWarps < lane.full;
      if (full) {
        step(std::integral_constant<int, kRows>(), std::true_type(), row, index);
      } else {
        step(std::integral_constant<int, 1>(), std::false_type(), row, index);
      }
      const int taken = full ? kRows : 1;
      rows += taken;
      row += taken * kWarps;
      index += taken * stride;
    }
  }
};

// V values of a float operand; undefined beyond `valid`.
template <int V>
__device__ void read_floats(const Strided& operand, const PointwiseArgs& args, const Lane<V>& lane,
                            int row, int64_t index, int valid, float (&values)[V]) {
  const auto* data = static_cast<const float*>(operand.data);
  if (operand.flat && valid == V) {
#pragma unroll
    for (int j = 0; j < V; j += 4) read_vector(data + index + j, values + j);
    return;
  }
  Cursor<V> cursor(operand, args.layout, lane, row);
#pragma unroll
  for (int j = 0; j < V; ++j, cursor.next()) {
    if (j < valid) values[j] = data[cursor.offset];
  }
}

// What only the general path has: mask and factors. They are read before the loss is computed and
// applied after it, so that the loss hides their latency.
template <int V>
struct Extras {
  Bytes<V> present;
  float factor[V];

  __device__ void read(const PointwiseArgs& args, const Lane<V>& lane, int row, int64_t index,
                       int valid) {
    if (args.mask.data != nullptr) {
      if (args.mask.flat && valid == V) {
        present.read(args.mask.data, index, valid, true);
      } else {
        present.clear();
        Cursor<V> cursor(args.mask, args.layout, lane, row);
#pragma unroll
        for (int j = 0; j < V; ++j, cursor.next()) {
          if (j < valid) present.set(j, static_cast<const uint8_t*>(args.mask.data)[cursor.offset]);
        }
      }
    }
    const bool weighted = args.weight.data != nullptr;
    if (weighted) read_floats(args.weight, args, lane, row, index, valid, factor);
    if (args.sample_weight.data == nullptr) return;
    float weight[V];
    read_floats(args.sample_weight, args, lane, row, index, valid, weight);
#pragma unroll
    for (int j = 0; j < V; ++j) factor[j] = weighted ? factor[j] * weight[j] : weight[j];
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

// The positive weights: once for a thread, where they don't change from row to row; else, on the
// general path, for each of its super-rows.
template <int V>
__device__ void read_pos_weight(const PointwiseArgs& args, const Lane<V>& lane, float (&p)[V]) {
#pragma unroll
  for (int j = 0; j < V; ++j) p[j] = 1;
  if (args.pos_weight.data == nullptr || args.pos_weight.row_stride != 0) return;
  Strided fixed = args.pos_weight;
  fixed.flat = false;
  read_floats(fixed, args, lane, 0, 0, lane.left, p);
}
template <int V>
__device__ void read_pos_weight(const PointwiseArgs& args, const Lane<V>& lane, int row,
                                int64_t index, int valid, float (&p)[V]) {
  if (args.pos_weight.data == nullptr || args.pos_weight.row_stride == 0) return;
  read_floats(args.pos_weight, args, lane, row, index, valid, p);
}

}  // namespace mtlfast
