// How a thread walks along its super-rows, in batches of them.
#pragma once

#include "pointwise_operands.cuh"

namespace mtlfast {

// The operands of kRows super-rows that a warp works on together: of whole vectors alone where
// kFull, else of a single super-row, which may be short or misaligned.
template <class Logit, Path kPath, int kRows_, bool kFull>
struct Batch {
  static constexpr int V = kVector<Logit, kPath>, kRows = kRows_;
  static_assert(kFull || kRows == 1);
  Vector<Logit, V> logits[kRows];
  Target<Logit, labels_of(kPath), V> target[kRows];
  Extras<V, kPath, kFull> extras[kRows];

  // `index`: of the thread's first element in super-row `row`.
  __device__ void read(const PointwiseArgs& args, const Lane<V>& lane, int row, int64_t index,
                       int valid) {
#pragma unroll
    for (int u = 0; u < kRows; ++u, row += kWarps, index += kWarps * args.layout.width) {
      const bool vector = kFull || row < lane.full;
      logits[u].read(args.logits, index, valid, vector);
      target[u].read(args.target, args.target_dtype, index, valid, vector);
      extras[u].read(args, lane, row, index, valid);
    }
  }

  // Missing, too, is what is masked or lies beyond the end.
  template <bool kSided>
  __device__ auto labels(const PointwiseArgs& args, const Lane<V>& lane,
                         const Columns<V, is_plain(kPath)>& columns, int u, int valid) const {
    auto labels = [&] {
      if constexpr (kSided) {
        return Hard<V>(target[u].bytes, args.target_dtype == ScalarType::Char);
      } else {
        return target[u].labels(args.target_dtype);
      }
    }();
    extras[u].apply_mask(args, lane, columns, labels);
    if constexpr (!kFull) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        if (j >= valid) labels.miss(j);
      }
    }
    return labels;
  }
};

// Calls work(u, labels) for the super-rows of a batch: with Soft labels, or where kSided with Hard
// ones, or with Other ones if there is any such in the batch.
template <bool kSided, class Work, class Batch, int V, bool kPlain>
__device__ void each_row(const Batch& batch, const PointwiseArgs& args, const Lane<V>& lane,
                         const Columns<V, kPlain>& columns, int valid, const Work& work) {
  constexpr int kRows = Batch::kRows;
  if constexpr (kSided) {
    bool other = false;
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      other |= batch.template labels<true>(args, lane, columns, u, valid).any_other();
    }
    if (other) {
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        work(u, Other<V>(batch.template labels<true>(args, lane, columns, u, valid),
                         args.target_dtype == ScalarType::Char));
      }
      return;
    }
  }
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    work(u, batch.template labels<kSided>(args, lane, columns, u, valid));
  }
}

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

}  // namespace mtlfast
