// The rows kernels: what they are called with, and which there are.
#pragma once

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
  Totals* partials;  // one for each block
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
// kUnit: they are normalised.
// kMost: no kernel holds more of each, so that several warps may share a row.
template <int kRows_, int kChunks_, bool kUnit_, bool kMost>
struct Held {
  static constexpr int kRows = kRows_, kChunks = kChunks_;
  static constexpr bool kUnit = kUnit_, kPart = kChunks == 1, kMany = kMost;
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
    return decoded >= 64 ? 1 : decoded >= 24 ? 2 : 3;
  } else {
    return held > 64 ? 1 : held > 24 ? 2 : held > 12 ? 3 : 4;
  }
}

// Calls visit(Metric{}, Held{}). Only what is usual is held in registers: up to four rows, p = 2.
template <class Row, class Visit>
void visit_kernel(const RowsArgs& args, const Visit& visit) {
  if (args.chunks == 0) {
    return visit_metric(args.call.metric,
                        [&](auto metric) { visit(metric, Held<0, 0, false, true>()); });
  }
  const auto visit_chunks = [&](auto rows, auto unit) {
    constexpr int kMost = most_held<Row>(rows());
    if (args.chunks == 1) return visit(Squares(), Held<rows(), 1, unit(), kMost == 1>());
    if (args.chunks == 2) return visit(Squares(), Held<rows(), 2, unit(), kMost == 2>());
    if constexpr (kMost >= 4) {
      if (args.chunks == 4) return visit(Squares(), Held<rows(), 4, unit(), kMost == 4>());
    }
    if constexpr (kMost >= 8) visit(Squares(), Held<rows(), 8, unit(), kMost == 8>());
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
__device__ inline void finish_rows(const RowsForwardArgs& args, const Totals& sum) {
  if (thread_number() > 0) return;
  double divisor = 1;
  if (args.call.reduction == Reduction::kMean) divisor = static_cast<double>(args.call.samples);
  if (args.call.reduction == Reduction::kNonzero) divisor = static_cast<double>(sum.count);
  if (divisor == 0) divisor = 1;
  *args.denominator = static_cast<float>(divisor);
  if (args.loss != nullptr) *args.loss = static_cast<float>(sum.loss / divisor);
}

}  // namespace mtlfast
