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
  uint32_t* ticket;  // zero at the start
};

struct RowsBackwardArgs : RowsArgs {
  RowsUpstream upstream;
  void* gradients[kMaxRows];  // contiguous (N, D), or null
};

// Defined for float and Float16Bits, each in its own file.
template <class Row>
void run_rows_forward(const Launcher& launch, int64_t blocks, const RowsForwardArgs& args);
template <class Row>
void run_rows_backward(const Launcher& launch, int64_t blocks, const RowsBackwardArgs& args);

// The rows of a sample that are held in registers, kChunks vectors in each thread; kRows = 0: none.
template <int kRows_, int kChunks_>
struct Held {
  static constexpr int kRows = kRows_, kChunks = kChunks_;
};

// Vectors of a row that a thread may hold: 16 elements. With three rows, more of them spill.
template <class Row>
constexpr int kMostHeld = sizeof(Row);

// Blocks that a multiprocessor must hold, as many as go without spills: 2, 3 or 4 cap the registers
// of a thread at 128, 80 or 64.
template <class Row, class Holding, bool kBackward>
constexpr int kResidentRows =
    Holding::kChunks == 4   ? 2
    : Holding::kChunks == 2 ? (kBackward ? 2 : 3)
    : Holding::kChunks == 1 ? (kBackward ? (sizeof(Row) == 2 && Holding::kRows == 3 ? 2 : 3) : 4)
                            : (kBackward ? 2 : 4);

// Calls visit(Metric{}, Held{}). Only what is usual is held in registers: two or three rows, p = 2.
template <class Row, class Visit>
void visit_kernel(const RowsArgs& args, const Visit& visit) {
  if (args.chunks == 0) {
    return visit_metric(args.call.metric, [&](auto metric) { visit(metric, Held<0, 0>()); });
  }
  const auto visit_rows = [&](auto rows) {
    if (args.chunks == 1) return visit(Squares(), Held<rows(), 1>());
    if (args.chunks == 2) return visit(Squares(), Held<rows(), 2>());
    if constexpr (kMostHeld<Row> == 4) visit(Squares(), Held<rows(), 4>());
  };
  if (args.call.inputs == 2) return visit_rows(std::integral_constant<int, 2>());
  visit_rows(std::integral_constant<int, 3>());
}

template <class T>
__device__ T value_of(const Operand& operand, int64_t sample, T absent = T()) {
  if (operand.data == nullptr) return absent;
  return static_cast<const T*>(operand.data)[sample * operand.row_stride];
}

}  // namespace mtlfast
