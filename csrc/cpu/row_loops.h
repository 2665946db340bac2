// The loops over the rows of a sample on the CPU, in double: a row is staged once and stays in the
// cache for the passes over it. Double serves every dtype with one code, keeps the digits of rows
// that nearly coincide, and costs little beside the memory.
#pragma once

#include "convert.h"
#include "partition.h"
#include "rows_call.h"

namespace mtlfast {

// Staged rows end in zeros up to a multiple of this, so that no loop over them has a tail.
constexpr int64_t kBlock = 16;
constexpr int64_t whole_blocks(int64_t count) { return count & ~(kBlock - 1); }

// Elements between staged rows: an odd number of cache lines, so that the rows of a sample do not
// compete for the same sets of the cache.
constexpr int64_t staged_stride(int64_t width) { return whole_blocks(width + kBlock - 1) + 8; }

// Copies `count` elements of rows into double, `stride` apart, and adds up their squares.
template <int kRows, class T>
MTLFAST_INLINE void widen_rows(const T* const* rows, int64_t count, double* __restrict out,
                               int64_t stride, double* squares) {
  const T* __restrict x0 = rows[0];
  const T* __restrict x1 = rows[kRows > 1 ? 1 : 0];
  const T* __restrict x2 = rows[kRows > 2 ? 2 : 0];
  double s0 = 0, s1 = 0, s2 = 0;
#pragma omp simd reduction(+ : s0, s1, s2)
  for (int64_t i = 0; i < count; ++i) {
    const auto copy = [&](const T* __restrict x, int64_t row, double& sum) MTLFAST_INLINED {
      const double value = widen<double>(x[i]);
      out[row * stride + i] = value;
      sum += value * value;
    };
    copy(x0, 0, s0);
    if constexpr (kRows > 1) copy(x1, 1, s1);
    if constexpr (kRows > 2) copy(x2, 2, s2);
  }
  squares[0] += s0;
  if constexpr (kRows > 1) squares[1] += s1;
  if constexpr (kRows > 2) squares[2] += s2;
}

template <int kRows, class T>
MTLFAST_INLINE void stage(const T* const* rows, int64_t width, double* out, double* squares) {
  const int64_t stride = staged_stride(width), whole = whole_blocks(width), rest = width - whole;
  std::fill_n(squares, kRows, 0.0);
  if (whole > 0) widen_rows<kRows>(rows, whole, out, stride, squares);
  if (rest == 0) return;
  T padded[kRows][kBlock] = {};
  const T* ends[kRows];
  for (int row = 0; row < kRows; ++row) {
    ends[row] = std::copy_n(rows[row] + whole, rest, padded[row]) - rest;
  }
  widen_rows<kRows>(ends, kBlock, out + whole, stride, squares);
}

// Stages `count` samples, and fetches as many behind them: the loops to come leave the memory idle.
template <class T>
MTLFAST_CLONES void stage_samples(const RowsCall& call, int64_t begin, int64_t count, double* out,
                                  double (*squares)[kMaxRows]) {
  const int64_t stride = staged_stride(call.width);
  for (int64_t s = 0; s < count; ++s, out += call.inputs * stride) {
    const int64_t ahead = begin + s + count < call.samples ? count : 0;
    const T* rows[kMaxRows];
    for (int i = 0; i < call.inputs; ++i) {
      const int64_t row_stride = call.rows[i].row_stride;
      rows[i] = static_cast<const T*>(call.rows[i].data) + (begin + s) * row_stride;
      const T* next = rows[i] + ahead * row_stride;
      for (int64_t j = 0; j < call.width; j += 64 / sizeof(T)) __builtin_prefetch(next + j);
    }
    int i = 0;
    for (; i + 3 <= call.inputs; i += 3) {
      stage<3>(rows + i, call.width, out + i * stride, squares[s] + i);
    }
    if (call.inputs - i == 2) stage<2>(rows + i, call.width, out + i * stride, squares[s] + i);
    if (call.inputs - i == 1) stage<1>(rows + i, call.width, out + i * stride, squares[s] + i);
  }
}

// u_a - u_b + eps as r_a (a - (r_b / r_a) b) + eps: exactly eps where a and b are the same.
struct Difference {
  double inverse, ratio, eps;

  MTLFAST_INLINE double operator()(double a, double b) const {
    return inverse * (a - ratio * b) + eps;
  }
};

// Sums over one pair of rows: Metric::term(t), and Metric::slope(t) times either row.
struct PairSums {
  double term, first, second;
};

// Compares row a with one row b, or with two, b1 - b0 apart.
template <class Metric, bool kDots, int kPairs>
MTLFAST_INLINE void compare(const double* __restrict a, const double* __restrict b0,
                            const double* __restrict b1, const Difference* difference, double p,
                            int64_t width, PairSums* sums) {
  const Difference t0 = difference[0], t1 = difference[kPairs - 1];
  double term0 = 0, first0 = 0, second0 = 0, term1 = 0, first1 = 0, second1 = 0;
#pragma omp simd reduction(+ : term0, first0, second0, term1, first1, second1)
  for (int64_t i = 0; i < whole_blocks(width); ++i) {
    const auto add = [&](const double* __restrict b, const Difference& apart, double& term,
                         double& first, double& second) MTLFAST_INLINED {
      const double t = apart(a[i], b[i]);
      term += Metric::term(t, p);
      if constexpr (kDots) {
        const double slope = Metric::slope(t, p);
        first += slope * a[i];
        second += slope * b[i];
      }
    };
    add(b0, t0, term0, first0, second0);
    if constexpr (kPairs == 2) add(b1, t1, term1, first1, second1);
  }
  sums[0] = {term0, first0, second0};
  if constexpr (kPairs == 2) sums[1] = {term1, first1, second1};
}

// The gradient of a row is the sum over its pairs of first or second times slope(t), less along x.
struct Coefficients {
  double first[kMaxRows], second[kMaxRows], along[kMaxRows];
};

// Gradients of a sample of two or three rows.
template <class Metric, int kInputs, bool kSwap, class F>
MTLFAST_INLINE void gradients(const double* __restrict x, int64_t stride,
                              const Difference* difference, double p, const Coefficients& k,
                              int64_t width, F* const* out) {
  const double* __restrict x0 = x;
  const double* __restrict x1 = x + stride;
  const double* __restrict x2 = x1 + stride;
  F* __restrict g0 = out[0];
  F* __restrict g1 = out[1];
  F* __restrict g2 = out[kInputs - 1];
  const Difference t0 = difference[0], t1 = difference[1], t2 = difference[2];
#pragma omp simd
  for (int64_t i = 0; i < whole_blocks(width); ++i) {
    const double s0 = Metric::slope(t0(x0[i], x1[i]), p);
    double sum0 = k.first[0] * s0 - k.along[0] * x0[i];
    double sum1 = k.second[0] * s0 - k.along[1] * x1[i];
    if constexpr (kInputs == 3) {
      const double s1 = Metric::slope(t1(x0[i], x2[i]), p);
      double sum2 = k.second[1] * s1 - k.along[2] * x2[i];
      sum0 += k.first[1] * s1;
      if constexpr (kSwap) {
        const double s2 = Metric::slope(t2(x1[i], x2[i]), p);
        sum1 += k.first[2] * s2;
        sum2 += k.second[2] * s2;
      }
      g2[i] = static_cast<F>(sum2);
    }
    g0[i] = static_cast<F>(sum0);
    g1[i] = static_cast<F>(sum1);
  }
}

// Gradients of a longer sample, level by level; `sum` gathers the anchor's.
template <class Metric, class F>
MTLFAST_INLINE void level_gradients(const double* __restrict x, int64_t stride,
                                    const Difference* difference, double p, const Coefficients& k,
                                    int inputs, int64_t width, double* __restrict sum,
                                    F* const* out) {
  for (int64_t i = 0; i < whole_blocks(width); ++i) sum[i] = -k.along[0] * x[i];
  for (int row = 1; row < inputs; ++row) {
    const double* __restrict y = x + row * stride;
    F* __restrict g = out[row];
    const Difference t = difference[row - 1];
    const double first = k.first[row - 1], second = k.second[row - 1], along = k.along[row];
#pragma omp simd
    for (int64_t i = 0; i < whole_blocks(width); ++i) {
      const double s = Metric::slope(t(x[i], y[i]), p);
      sum[i] += first * s;
      g[i] = static_cast<F>(second * s - along * y[i]);
    }
  }
  F* __restrict g = out[0];
  for (int64_t i = 0; i < whole_blocks(width); ++i) g[i] = static_cast<F>(sum[i]);
}

}  // namespace mtlfast
