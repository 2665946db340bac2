// What forward and backward share: how a thread walks along its super-rows and reads its operands.
#pragma once

#include "pointwise.cuh"

namespace mtlfast {

// Logits and targets of kRows super-rows that a warp works on together: of whole vectors alone
// where kFull, else of a single super-row, which may be short or misaligned.
template <class Logit, Path kPath, int kRows, bool kFull>
struct Batch {
  static constexpr int V = kVector<Logit, kPath>;
  static_assert(kFull || kRows == 1);
  Packed<Logit, V> logits[kRows];
  Target<Logit, labels_of(kPath), V> target[kRows];

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
    logits[u].decode(x);
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

// Calls take(j, value) for the elements j < valid, or more, of an operand that is not read as
// vectors.
template <class T, int V, class Take>
__device__ void read_elements(const Strided& operand, const PointwiseArgs& args,
                              const Lane<V>& lane, int row, int valid, const Take& take) {
  const auto* data = static_cast<const T*>(operand.data);
  if (operand.reach == Reach::kRows && args.layout.tasks >= V) {  // of one row or two
    data += (row * args.layout.period + lane.sample) * operand.row_stride;
    const int own = static_cast<int>(min(args.layout.tasks - lane.column, int64_t{V}));
    const T first = valid > 0 ? data[0] : T(),
            second = own < valid ? data[operand.row_stride] : first;
#pragma unroll
    for (int j = 0; j < V; ++j) take(j, j < own ? first : second);
    return;
  }
  Cursor<V> cursor(operand, args.layout, lane, row);
#pragma unroll
  for (int j = 0; j < V; ++j, cursor.next()) {
    if (j < valid) take(j, data[cursor.offset]);
  }
}

// V values of a float operand; undefined beyond `valid`.
template <int V>
__device__ void read_floats(const Strided& operand, const PointwiseArgs& args, const Lane<V>& lane,
                            int row, int64_t index, int valid, float (&values)[V]) {
  if (operand.reach == Reach::kVectors && valid == V) {
#pragma unroll
    for (int j = 0; j < V; j += 4) {
      read_vector(static_cast<const float*>(operand.data) + index + j, values + j);
    }
    return;
  }
  read_elements<float>(operand, args, lane, row, valid,
                       [&](int j, float value) { values[j] = value; });
}

// What plain paths do not have: mask, factors and positive weights. They are read before the loss
// is computed and applied after it, so that the loss hides their latency; weights of the columns
// are read once for all rows.
template <int V, bool kPlain>
struct Extras {
  const PointwiseArgs& args;
  const Lane<V>& lane;
  Bytes<V> present;
  float factor[V], of_columns[V], positive[V];

  __device__ Extras(const PointwiseArgs& args, const Lane<V>& lane) : args(args), lane(lane) {
#pragma unroll
    for (int j = 0; j < V; ++j) positive[j] = of_columns[j] = 1;
    if (is(args.weight, Reach::kColumns)) {
      read_floats(args.weight, args, lane, 0, 0, lane.left, of_columns);
    }
    if (is(args.pos_weight, Reach::kColumns)) {
      read_floats(args.pos_weight, args, lane, 0, 0, lane.left, positive);
    }
  }
  __device__ static bool is(const Strided& operand, Reach reach) {
    return operand.data != nullptr && operand.reach == reach;
  }
  __device__ static bool varies(const Strided& operand) {
    return operand.data != nullptr && operand.reach != Reach::kColumns;
  }

  __device__ void read(int row, int64_t index, int valid) {
    if (is(args.mask, Reach::kVectors) && valid == V) {
      present.read(args.mask.data, index, valid, true);
    } else if (args.mask.data != nullptr) {
      present.clear();
      read_elements<uint8_t>(args.mask, args, lane, row, valid,
                             [&](int j, uint8_t byte) { present.set(j, byte); });
    }
    if (varies(args.pos_weight)) {
      read_floats(args.pos_weight, args, lane, row, index, valid, positive);
    }
    read_weight(row, index, valid, factor);
    if (args.sample_weight.data == nullptr) return;
    float of_sample[V];
    read_floats(args.sample_weight, args, lane, row, index, valid, of_sample);
#pragma unroll
    for (int j = 0; j < V; ++j) factor[j] *= of_sample[j];
  }
  // 1 where there is no weight.
  __device__ void read_weight(int row, int64_t index, int valid, float (&values)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = of_columns[j];
    if (varies(args.weight)) read_floats(args.weight, args, lane, row, index, valid, values);
  }

  __device__ float pos_weight(int j) const { return positive[j]; }
  // Missing labels become NaN.
  __device__ void apply_mask(float (&y)[V]) const {
    if (args.mask.data == nullptr) return;
#pragma unroll
    for (int j = 0; j < V; ++j) y[j] = present.any(j) ? y[j] : kMissing;
  }
  __device__ void apply_factor(float (&values)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] *= factor[j];
  }
};
template <int V>
struct Extras<V, true> {
  __device__ Extras(const PointwiseArgs&, const Lane<V>&) {}
  __device__ void read(int, int64_t, int) {}
  __device__ static constexpr float pos_weight(int) { return 1; }
  __device__ void apply_mask(float (&)[V]) const {}
  __device__ void apply_factor(float (&)[V]) const {}
};

}  // namespace mtlfast
