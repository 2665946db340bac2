// The loops over the rows of a sample on the CPU: rows in F, the compute type, where they lie or
// staged, lengths in double, and differences in A. That is double, or float where a fused product
// keeps the digits of rows that nearly coincide: what the ratio of their lengths loses as a float
// is taken apart from it. A row stays in the cache for the passes over it.
#pragma once

#include "convert.h"
#include "partition.h"
#include "rows_call.h"

namespace mtlfast {

// Whether floats are multiplied and added with one rounding, in an instruction.
inline bool fuses_products() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2") &&
                          __builtin_cpu_supports("bmi2");
  return has;
#else
  return true;
#endif
}

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

template <class A>
struct Slots {
  A slot[kBlock] = {0};

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
  Slots<double> sums[kRows];
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
template <class A>
struct Difference;
template <>
struct Difference<double> {
  double inverse, ratio, eps;

  Difference() = default;
  Difference(double inverse, double ratio, double eps) : inverse(inverse), ratio(ratio), eps(eps) {}
  MTLFAST_INLINE double operator()(double a, double b) const { return (*this)(a, b, eps); }
  MTLFAST_INLINE double operator()(double a, double b, double given) const {
    return inverse * (a - ratio * b) + given;
  }
};
template <>
struct Difference<float> {
  float inverse, ratio, rest, eps;  // the ratio in two parts

  Difference() = default;
  Difference(double inverse, double ratio, double eps)
      : inverse(static_cast<float>(inverse)),
        ratio(static_cast<float>(ratio)),
        rest(static_cast<float>(ratio - double{this->ratio})),
        eps(static_cast<float>(eps)) {}
  MTLFAST_INLINE float operator()(float a, float b) const { return (*this)(a, b, eps); }
  MTLFAST_INLINE float operator()(float a, float b, float given) const {
    return inverse * ::fmaf(-rest, b, ::fmaf(-ratio, b, a)) + given;
  }
};

// Sums over one pair of rows: Metric::term(t), and Metric::slope(t) times either row.
struct PairSums {
  double term, first, second;
};

// Terms that a slot adds up in float, before it moves into double: equal ones drift one way.
constexpr int64_t kSlotTerms = 32;

// Compares row a with one row, or with two. `tail` (kBlock,) is the eps of the last block: 0 in
// what stands behind the rows, which must add nothing.
template <class Metric, bool kDots, int kPairs, class A, class F>
MTLFAST_INLINE void compare(const F* __restrict a, const F* const* others,
                            const Difference<A>* difference, const A* tail, double p, int64_t width,
                            PairSums* sums) {
  for (int pair = 0; pair < kPairs; ++pair) sums[pair] = {0, 0, 0};
  for (int64_t start = 0; start < width;) {
    const int64_t end = std::min(width, start + kSlotTerms * kBlock);
    Slots<A> term[kPairs], first[kPairs], second[kPairs];
    const auto add_block = [&](int64_t start, auto eps) MTLFAST_INLINED {
#pragma GCC unroll 2
      for (int pair = 0; pair < kPairs; ++pair) {
        const F* __restrict x = a + start;
        const F* __restrict y = others[pair] + start;
        const Difference<A> apart = difference[pair];
#pragma omp simd
        for (int i = 0; i < kBlock; ++i) {
          const A t = apart(x[i], y[i], eps(i));
          term[pair].slot[i] += Metric::term(t, A(p));
          if constexpr (kDots) {
            const A slope = Metric::slope(t, A(p));
            first[pair].slot[i] += slope * x[i];
            second[pair].slot[i] += slope * y[i];
          }
        }
      }
    };
    for (; start < end && start + kBlock < width; start += kBlock) {
      add_block(start, [&](int) MTLFAST_INLINED { return difference[0].eps; });
    }
    if (start + kBlock == width) {
      add_block(start, [&](int i) MTLFAST_INLINED { return tail[i]; });
      start = width;
    }
    for (int pair = 0; pair < kPairs; ++pair) {
      sums[pair].term += term[pair].sum();
      if constexpr (kDots) {
        sums[pair].first += first[pair].sum();
        sums[pair].second += second[pair].sum();
      }
    }
  }
}

// The gradient of a row is the sum over its pairs of first or second times slope(t), less along x.
struct Coefficients {
  double first[kMaxRows] = {0}, second[kMaxRows] = {0}, along[kMaxRows] = {0};
};

// g <- g - (g . u) u with u = inverse x: what a normalised row's gradient has across the row. From
// g itself, not from its terms, which may all but cancel.
template <class A, class F>
MTLFAST_INLINE void take_along(const F* __restrict x, double inverse, int64_t width,
                               F* __restrict g) {
  double sum = 0;
  for (int64_t start = 0; start < width;) {
    const int64_t end = std::min(width, start + kSlotTerms * kBlock);
    Slots<A> products;
    for (; start < end; start += kBlock) {
#pragma omp simd
      for (int i = 0; i < kBlock; ++i) products.slot[i] += A(x[start + i]) * A(g[start + i]);
    }
    sum += products.sum();
  }
  const A along = static_cast<A>(sum * inverse * inverse);
#pragma omp simd
  for (int64_t i = 0; i < whole_blocks(width); ++i) g[i] = static_cast<F>(g[i] - along * x[i]);
}

// Gradients of a sample of two or three rows.
template <class Metric, int kInputs, bool kSwap, class A, class F>
MTLFAST_INLINE void gradients(const F* const* rows, const Difference<A>* difference, double p,
                              const Coefficients& k, int64_t width, F* const* out) {
  const F* __restrict x0 = rows[0];
  const F* __restrict x1 = rows[1];
  const F* __restrict x2 = rows[kInputs - 1];
  F* __restrict g0 = out[0];
  F* __restrict g1 = out[1];
  F* __restrict g2 = out[kInputs - 1];
  const Difference<A> t0 = difference[0], t1 = difference[1], t2 = difference[2];
  const A first0 = A(k.first[0]), first1 = A(k.first[1]), first2 = A(k.first[2]);
  const A second0 = A(k.second[0]), second1 = A(k.second[1]), second2 = A(k.second[2]);
  const A along0 = A(k.along[0]), along1 = A(k.along[1]), along2 = A(k.along[2]);
#pragma omp simd
  for (int64_t i = 0; i < whole_blocks(width); ++i) {
    const A s0 = Metric::slope(t0(x0[i], x1[i]), A(p));
    A sum0 = first0 * s0 - along0 * x0[i];
    A sum1 = second0 * s0 - along1 * x1[i];
    if constexpr (kInputs == 3) {
      const A s1 = Metric::slope(t1(x0[i], x2[i]), A(p));
      A sum2 = second1 * s1 - along2 * x2[i];
      sum0 += first1 * s1;
      if constexpr (kSwap) {
        const A s2 = Metric::slope(t2(x1[i], x2[i]), A(p));
        sum1 += first2 * s2;
        sum2 += second2 * s2;
      }
      g2[i] = static_cast<F>(sum2);
    }
    g0[i] = static_cast<F>(sum0);
    g1[i] = static_cast<F>(sum1);
  }
}

// Gradients of a longer sample, level by level; `sum` gathers the anchor's.
template <class Metric, class F>
MTLFAST_INLINE void level_gradients(const F* const* rows, const Difference<double>* difference,
                                    double p, const Coefficients& k, int inputs, int64_t width,
                                    double* __restrict sum, F* const* out) {
  const F* __restrict x = rows[0];
  for (int64_t i = 0; i < whole_blocks(width); ++i) sum[i] = -k.along[0] * x[i];
  for (int row = 1; row < inputs; ++row) {
    const F* __restrict y = rows[row];
    F* __restrict g = out[row];
    const Difference<double> t = difference[row - 1];
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
