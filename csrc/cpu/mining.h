// One anchor of an in-batch loss on the CPU: from its similarities to distances, from those to
// matching labels and weights. Rows are short enough to stay in the first caches between the loops.
#pragma once

#include <algorithm>
#include <limits>

#include "convert.h"
#include "inbatch.h"

namespace mtlfast {

template <class F>
const F* read(const Tensor& tensor) {
  return static_cast<const F*>(tensor.const_data_ptr());
}

template <class F>
F* written(const Tensor& tensor) {
  return static_cast<F*>(tensor.mutable_data_ptr());
}

// The rows that an anchor is compared with, or those the anchors are among.
template <class F>
struct Side {
  const F* units;         // (count, width)
  const F* rest;          // what the units lost in rounding, or null
  const F* square;        // (count,)
  const int64_t* labels;  // (words, count)
  int64_t count;
};

MTLFAST_CLONES inline bool any_set(const uint8_t* bytes, int64_t count) {
  uint8_t any = 0;
  for (int64_t j = 0; j < count; ++j) any |= bytes[j];
  return any != 0;
}

// Calls visit(j) for the bytes that are not 0, in order.
template <class Visit>
inline MTLFAST_INLINED void for_set(const uint8_t* bytes, int64_t count, Visit&& visit) {
  int64_t start = 0;
  for (; start + 8 <= count; start += 8) {
    uint64_t word;
    memcpy(&word, bytes + start, 8);
    if (word == 0) continue;
    for (int64_t j = start; j < start + 8; ++j) {
      if (bytes[j]) visit(j);
    }
  }
  for (; start < count; ++start) {
    if (bytes[start]) visit(start);
  }
}

// Similarities become squared distances; near[j] says which of them are imprecise. Returns how
// many.
template <class F>
MTLFAST_CLONES int64_t square_distances(F* __restrict row, F anchor, const F* __restrict square,
                                        uint8_t* __restrict near, int64_t count) {
  int64_t found = 0;
  for (int64_t j = 0; j < count; ++j) {
    const F both = anchor + square[j], d = both - F(2) * row[j];
    const bool imprecise = d < F(kNear) * both;
    row[j] = d < F(0) ? F(0) : d;
    near[j] = imprecise;
    found += imprecise;
  }
  return found;
}

// The imprecise ones again, from differences.
template <bool kRest, class F>
MTLFAST_CLONES void repeat_near(F* __restrict row, const Side<F> x, int64_t anchor, const Side<F> y,
                                const uint8_t* near, int64_t width) {
  const F *a = x.units + anchor * width, *a_rest = kRest ? x.rest + anchor * width : nullptr;
  for_set(near, y.count, [&](int64_t j) MTLFAST_INLINED {
    const F *b = y.units + j * width, *b_rest = kRest ? y.rest + j * width : nullptr;
    F sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < width; ++c) {
      const F t = kRest ? (a[c] - b[c]) + (a_rest[c] - b_rest[c]) : a[c] - b[c];
      sum += t * t;
    }
    row[j] = sum;
  });
}

// Returns whether there is a NaN.
template <class F>
MTLFAST_CLONES bool finish_distances(F* row, bool squared, int64_t count) {
  int32_t invalid = 0;
  if (squared) {
    for (int64_t j = 0; j < count; ++j) invalid |= row[j] != row[j];
  } else {
    for (int64_t j = 0; j < count; ++j) {
      row[j] = square_root(row[j]);
      invalid |= row[j] != row[j];
    }
  }
  return invalid != 0;
}

// same[j]: whether the label words match; returns how many do.
MTLFAST_CLONES inline int64_t match(const int64_t* anchor, int64_t anchor_stride,
                                    const int64_t* labels, int64_t words, bool shared,
                                    uint8_t* __restrict same, int64_t count) {
  if (!shared) {
    for (int64_t j = 0; j < count; ++j) same[j] = labels[j] == *anchor;
  } else {
    std::fill_n(same, count, uint8_t{0});
    for (int64_t k = 0; k < words; ++k, labels += count, anchor += anchor_stride) {
      const int64_t mine = *anchor;
      for (int64_t j = 0; j < count; ++j) same[j] |= (labels[j] & mine) != 0;
    }
  }
  int64_t found = 0;
  for (int64_t j = 0; j < count; ++j) found += same[j];
  return found;
}

// The first of the greatest values.
template <class F>
MTLFAST_CLONES int32_t first_greatest(const F* __restrict values, int32_t count) {
  F greatest = -std::numeric_limits<F>::infinity();
#pragma omp simd reduction(max : greatest)
  for (int32_t j = 0; j < count; ++j) greatest = greatest < values[j] ? values[j] : greatest;
  int32_t first = count - 1;
#pragma omp simd reduction(min : first)
  for (int32_t j = 0; j < count; ++j) {
    const int32_t here = values[j] == greatest ? j : count;
    first = here < first ? here : first;
  }
  return first;
}

// sign x values, but `fill` where skip[j] is kSkipped.
template <bool kSkipped, class F>
MTLFAST_CLONES void select(const F* row, const uint8_t* __restrict skip, F sign, F fill, F* values,
                           int64_t count) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) {
    const F value = sign * row[j];
    values[j] = (skip[j] != 0) == kSkipped ? fill : value;
  }
}

// sums: of h = values + offset where it is positive, in F over short blocks; and of how many are.
template <class F>
MTLFAST_CLONES void sum_hinges(const F* __restrict values, F offset, int64_t count, double* sums) {
  constexpr int64_t kBlock = 256;
  sums[0] = sums[1] = 0;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t end = std::min(start + kBlock, count);
    F sum = 0, number = 0;
#pragma omp simd reduction(+ : sum, number)
    for (int64_t j = start; j < end; ++j) {
      const F h = values[j] + offset;
      sum += h > F(0) ? h : F(0);
      number += h > F(0) ? F(1) : F(0);
    }
    sums[0] += static_cast<double>(sum);
    sums[1] += static_cast<double>(number);
  }
}

// Returns the sum of sign W d, and turns distances into sign W dd/|x - y|.
template <bool kSquared, class F>
MTLFAST_CLONES double apply_weights(F* __restrict row, const F* __restrict weight, F sign,
                                    int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    const F w = sign * weight[j], d = row[j];
    const double product = static_cast<double>(w) * static_cast<double>(d);
    sum += w == F(0) ? 0.0 : product;
    row[j] = chained<kSquared>(w, d);
  }
  return sum;
}

// The contrastive loss: distances become its V; a pair weighs positive or -negative, if active.
template <bool kSquared, class F>
MTLFAST_CLONES void weigh_row(F* __restrict row, const uint8_t* __restrict same, F positive_margin,
                              F negative_margin, F positive, F negative, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    const F d = row[j];
    const F p = d - positive_margin > F(0) ? positive : F(0);
    const F n = negative_margin - d > F(0) ? negative : F(0);
    row[j] = chained<kSquared>(same[j] ? p : -n, d);
  }
}

}  // namespace mtlfast
