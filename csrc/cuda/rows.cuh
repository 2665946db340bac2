// The rows kernels: what they are called with, and which there are.
#pragma once

#include <bit>

#include "reduce.cuh"
#include "rows_call.h"
#include "vector.cuh"

namespace mtlfast {

struct RowsArgs {
  RowsCall call;
  float p, eps, margin, gaps[kMaxRows];  // the call's, in float
  int team;                              // threads of a team: a power of two, at most kThreads
  int chunks;                            // vectors of a row in a thread's registers, or 0
  bool vector;                           // rows and gradients are whole vectors, and aligned
};

struct RowsForwardArgs : RowsArgs {
  void* elements;  // (N,) for "none", else null
  float *loss, *denominator;
  Scalars* partials;  // one for each block; the divisor is the count
  int blocks;
};

struct RowsBackwardArgs : RowsArgs {
  RowsUpstream upstream;
  void* gradients[kMaxRows];  // contiguous (N, D), or null
};

// Defined for float, BFloat16 and Half, each in its own file.
template <class Row>
void run_rows_forward(const Launcher& launch, const RowsForwardArgs& args);
template <class Row>
void run_rows_backward(const Launcher& launch, int64_t blocks, const RowsBackwardArgs& args);

// The rows of a sample that are held in registers, kChunks vectors in each thread; kRows = 0: none.
// kUnit: they are normalised. kPart: fewer threads than a warp may share a row. kMany: several
// warps may.
template <int kRows_, int kChunks_, bool kUnit_, bool kPart_, bool kMany_>
struct Held {
  static constexpr int kRows = kRows_, kChunks = kChunks_;
  static constexpr bool kUnit = kUnit_, kPart = kPart_, kMany = kMany_;
};

// Vectors of a row that a thread may hold: 32 elements, or 16 of four rows.
template <class Row>
constexpr int most_held(int rows) {
  return static_cast<int>(sizeof(Row)) * (rows == 4 ? 1 : 2);
}

// Blocks that a multiprocessor must hold, as many as go without spills: 1, 2, 3 or 4 cap the
// registers of a thread at 255, 128, 80 or 64.
template <class Row, class Holding, bool kBackward>
constexpr int resident_rows() {
  if (Holding::kRows == 0) return kBackward ? 2 : 4;
  const int held = 4 * Holding::kRows * Holding::kChunks;  // registers
  if constexpr (kBackward) {
    const int decoded = held * static_cast<int>(sizeof(float) / sizeof(Row));
    return decoded >= 64 && sizeof(Row) == 4 ? 1 : decoded >= 24 ? 2 : 3;
  } else {
    return held > 64 ? 1 : held > 24 ? 2 : held > 12 ? 3 : 4;
  }
}

// Vectors of a row in each thread: as many as are fastest, and more of a longer row. Gradients of
// 16-bit rows take too many registers for more than two. So the two directions may add in another
// order, and disagree about a hinge that is decided by rounding.
template <class Row, bool kBackward>
int chunks_for(int64_t vectors, int rows) {
  const bool few = vectors < 16 || (kBackward && (sizeof(Row) == 2 || rows != 3));
  const auto each = std::bit_ceil(static_cast<uint64_t>(divide_up(vectors, kLanes)));
  const auto all = std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(vectors, 1)));
  const uint64_t least = std::min<uint64_t>(few ? 2 : 4, all);
  return static_cast<int>(std::min<uint64_t>(std::max(each, least), most_held<Row>(rows)));
}
// Whether there may be fewer threads to a row than a warp: a longer row takes all the registers.
template <class Row, bool kBackward, int kChunks>
constexpr bool kPartOfWarp = sizeof(Row) == 4 || !kBackward || kChunks <= 2;

// Calls visit(Metric{}, Held{}). Only what is usual is held in registers: up to four rows, p = 2.
template <class Row, bool kBackward, class Visit>
void visit_kernel(const RowsArgs& args, const Visit& visit) {
  if (args.chunks == 0) {
    return visit_metric(args.call.metric,
                        [&](auto metric) { visit(metric, Held<0, 0, false, false, true>()); });
  }
  const auto visit_chunks = [&](auto rows, auto unit) {
    constexpr int kMost = most_held<Row>(rows());
    const auto visit_held = [&](auto chunks) {
      constexpr bool kPart = kPartOfWarp<Row, kBackward, chunks()>;
      visit(Squares(), Held<rows(), chunks(), unit(), kPart, chunks() == kMost>());
    };
    if (args.chunks == 1) return visit_held(std::integral_constant<int, 1>());
    if (args.chunks == 2) return visit_held(std::integral_constant<int, 2>());
    if constexpr (kMost >= 4) {
      if (args.chunks == 4) return visit_held(std::integral_constant<int, 4>());
    }
    if constexpr (kMost >= 8) visit_held(std::integral_constant<int, 8>());
  };
  const auto visit_unit = [&](auto rows) {
    if (args.call.normalize) return visit_chunks(rows, std::true_type());
    visit_chunks(rows, std::false_type());
  };
  if (args.call.inputs == 2) return visit_unit(std::integral_constant<int, 2>());
  if (args.call.inputs == 3) return visit_unit(std::integral_constant<int, 3>());
  visit_chunks(std::integral_constant<int, 4>(), std::true_type());
}

template <class T>
__device__ T value_of(const Operand& operand, int64_t sample, T absent = T()) {
  if (operand.data == nullptr) return absent;
  return static_cast<const T*>(operand.data)[sample * operand.row_stride];
}

// The sums of all samples are complete, in the first thread.
__device__ inline void finish_rows(const RowsForwardArgs& args, const Scalars& sum) {
  if (thread_number() > 0) return;
  double divisor = 1;
  if (args.call.reduction == Reduction::kMean) divisor = static_cast<double>(args.call.samples);
  if (args.call.reduction == Reduction::kNonzero) divisor = sum.divisor;
  if (divisor == 0) divisor = 1;
  *args.denominator = static_cast<float>(divisor);
  if (args.loss != nullptr) *args.loss = static_cast<float>(sum.loss / divisor);
}

}  // namespace mtlfast
