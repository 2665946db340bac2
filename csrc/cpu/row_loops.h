// The loops over the rows of a sample on the CPU: rows in F, the compute type, where they lie or
// staged, and arithmetic in double, which keeps the digits of rows that nearly coincide and costs
// little beside the memory. A row stays in the cache for the passes over it.
#pragma once

#include "convert.h"
#include "partition.h"
#include "rows_call.h"

namespace mtlfast {

// Staged rows end in zeros up to a whole number of blocks, so that no loop over them has a tail. A
// block has one slot per element for each sum: the order of additions is the code's, not the
// compiler's, and enough of them are under way at once.
constexpr int64_t kBlock = 16;
constexpr int64_t whole_blocks(int64_t count) { return count & ~(kBlock - 1); }
constexpr int64_t padded(int64_t width) { return whole_blocks(width + kBlock - 1); }

// Elements between staged rows: an odd number of cache lines, so that the rows of a sample do not
// compete for the same sets of the cache.
template <class F>
constexpr int64_t staged_stride(int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(F);
  return (padded(width) / kLine | 1) * kLine;
}

struct Slots {
  double slot[kBlock] = {0};

  MTLFAST_INLINE double sum() {
#pragma GCC unroll 4
    for (int half = kBlock / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) slot[i] += slot[i + half];
    }
    return slot[0];
  }
};

// Finds the rows of one sample: the operands' own where they are F in whole blocks, else copied to
// `out`, which holds zeros, staged_stride() apart.
template <class T, class F>
void stage_sample(const RowsCall& call, int64_t index, F* out, const F** rows) {
  const int64_t width = call.width, stride = staged_stride<F>(width);
  for (int row = 0; row < call.inputs; ++row, out += stride) {
    const T* x = static_cast<const T*>(call.rows[row].data) + index * call.rows[row].row_stride;
    if constexpr (std::is_same_v<T, F>) {
      if (width == whole_blocks(width)) {
        rows[row] = x;
        continue;
      }
    }
    widen_all(x, out, width);
    rows[row] = out;
  }
}

// The sums of the squares of kRows rows.
template <int kRows, class F>
MTLFAST_INLINE void sum_squares(const F* const* rows, int64_t width, double* squares) {
  Slots sums[kRows];
  for (int64_t start = 0; start < width; start += kBlock) {
#pragma GCC unroll 3
    for (int row = 0; row < kRows; ++row) {
      const F* __restrict x = rows[row] + start;
#pragma omp simd
      for (int i = 0; i < kBlock; ++i) sums[row].slot[i] += double(x[i]) * double(x[i]);
    }
  }
  for (int row = 0; row < kRows; ++row) squares[row] = sums[row].sum();
}
template <class F>
MTLFAST_INLINE void sum_squares(const F* const* rows, int count, int64_t width, double* squares) {
  int i = 0;
  for (; i + 3 <= count; i += 3) sum_squares<3>(rows + i, width, squares + i);
  if (count - i == 2) sum_squares<2>(rows + i, width, squares + i);
  if (count - i == 1) sum_squares<1>(rows + i, width, squares + i);
}

// u_a - u_b + eps as r_a (a - (r_b / r_a) b) + eps: exactly eps where a and b are the same.
struct Difference {
  double inverse, ratio, eps;

  MTLFAST_INLINE double operator()(double a, double b) const { return (*this)(a, b, eps); }
  MTLFAST_INLINE double operator()(double a, double b, double given) const {
    return inverse * (a - ratio * b) + given;
  }
};

// Sums over one pair of rows: Metric::term(t), and Metric::slope(t) times either row.
struct PairSums {
  double term, first, second;
};

// Compares row a with one row, or with two. `tail` (kBlock,) is the eps of the last block: 0 in
// what stands behind the rows, which must add nothing.
template <class Metric, bool kDots, int kPairs, class F>
MTLFAST_INLINE void compare(const F* __restrict a, const F* const* others,
                            const Difference* difference, const double* tail, double p,
                            int64_t width, PairSums* sums) {
  Slots term[kPairs], first[kPairs], second[kPairs];
  const auto add_block = [&](int64_t start, auto eps) MTLFAST_INLINED {
#pragma GCC unroll 2
    for (int pair = 0; pair < kPairs; ++pair) {
      const F* __restrict x = a + start;
      const F* __restrict y = others[pair] + start;
      const Difference apart = difference[pair];
#pragma omp simd
      for (int i = 0; i < kBlock; ++i) {
        const double t = apart(x[i], y[i], eps(i));
        term[pair].slot[i] += Metric::term(t, p);
        if constexpr (kDots) {
          const double slope = Metric::slope(t, p);
          first[pair].slot[i] += slope * x[i];
          second[pair].slot[i] += slope * y[i];
        }
      }
    }
  };
  int64_t start = 0;
  for (; start + kBlock < width; start += kBlock) {
    add_block(start, [&](int) MTLFAST_INLINED { return difference[0].eps; });
  }
  add_block(start, [&](int i) MTLFAST_INLINED { return tail[i]; });
  for (int pair = 0; pair < kPairs; ++pair) {
    sums[pair] = {term[pair].sum(), kDots ? first[pair].sum() : 0, kDots ? second[pair].sum() : 0};
  }
}

// The gradient of a row is the sum over its pairs of first or second times slope(t), less along x.
struct Coefficients {
  double first[kMaxRows], second[kMaxRows], along[kMaxRows];
};

// g <- g - (g . u) u with u = inverse x: what a normalised row's gradient has across the row. From
// g itself, not from its terms, which may all but cancel.
template <class F>
MTLFAST_INLINE void take_along(const F* __restrict x, double inverse, int64_t width,
                               F* __restrict g) {
  Slots products;
  for (int64_t start = 0; start < width; start += kBlock) {
#pragma omp simd
    for (int i = 0; i < kBlock; ++i) products.slot[i] += double(x[start + i]) * g[start + i];
  }
  const double along = products.sum() * inverse * inverse;
#pragma omp simd
  for (int64_t i = 0; i < whole_blocks(width); ++i) g[i] = static_cast<F>(g[i] - along * x[i]);
}

// Gradients of a sample of two or three rows.
template <class Metric, int kInputs, bool kSwap, class F>
MTLFAST_INLINE void gradients(const F* const* rows, const Difference* difference, double p,
                              const Coefficients& k, int64_t width, F* const* out) {
  const F* __restrict x0 = rows[0];
  const F* __restrict x1 = rows[1];
  const F* __restrict x2 = rows[kInputs - 1];
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
MTLFAST_INLINE void level_gradients(const F* const* rows, const Difference* difference, double p,
                                    const Coefficients& k, int inputs, int64_t width,
                                    double* __restrict sum, F* const* out) {
  const F* __restrict x = rows[0];
  for (int64_t i = 0; i < whole_blocks(width); ++i) sum[i] = -k.along[0] * x[i];
  for (int row = 1; row < inputs; ++row) {
    const F* __restrict y = rows[row];
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
