// Samples on the CPU, a few at a time: from their rows to their losses to their gradients.
#pragma once

#include <vector>

#include "row_loops.h"

namespace mtlfast {

// Number `index` of an (N,) operand or a scalar of the compute dtype.
MTLFAST_INLINE double number(const Operand& operand, int64_t index, double otherwise) {
  if (!operand) return otherwise;
  index *= operand.row_stride;
  if (operand.dtype == ScalarType::Double) return static_cast<const double*>(operand.data)[index];
  return static_cast<const float*>(operand.data)[index];
}

// Calls visit(T{}) with the storage type of the rows.
template <class Visit>
void visit_rows_type(ScalarType dtype, Visit&& visit) {
  switch (dtype) {
    case ScalarType::Double:
      return visit(double{});
    case ScalarType::BFloat16:
      return visit(BFloat16{});
    case ScalarType::Half:
      return visit(Half{});
    default:
      return visit(float{});
  }
}

// Samples in the cache at once: what one waits for, square roots and sums across a register, hides
// behind the others.
constexpr int kMaxSamples = 16;
constexpr int64_t kStaged = 2560;  // doubles, in L1

template <class Metric, bool kDots>
class Samples {
 public:
  explicit Samples(const RowsCall& call)
      : call_(call),
        stride_(staged_stride(call.width)),
        width_(stride_ - 8),
        size_(call.inputs * stride_),
        most_(std::clamp<int64_t>(kStaged / size_, 1, kMaxSamples)),
        scratch_(most_ * size_ + stride_ + 8),
        staged_(scratch_.data() + 8 - reinterpret_cast<uintptr_t>(scratch_.data()) / 8 % 8) {
    visit_rows_type(call.dtype, [&](auto t) { stage_ = stage_samples<decltype(t)>; });
    terms_.scale = number({call.scale, call.compute, 0, 0}, 0, 1);
    terms_.bias = number({call.bias, call.compute, 0, 0}, 0, 0);
    terms_.gaps = call.margin ? nullptr : call.gaps;
    terms_.levels = call.levels();
    padding_ = static_cast<double>(width_ - call.width) * Metric::term(call.eps, call.p);
    // |2^-51 u|_p^p is at most this, for unit rows u.
    const double spread = std::pow(static_cast<double>(call.width), 1 - 0.5 * call.p);
    noise_ =
        call.normalize && call.eps == 0 ? std::pow(0x1p-51, call.p) * std::max(spread, 1.0) : -1;
  }

  // Calls visit(index, number in the cache, loss before its weight) for samples begin to end.
  template <class Visit>
  MTLFAST_INLINE void each(int64_t begin, int64_t end, Visit&& visit) {
    double values[kMaxSamples];
    for (int64_t i = begin; i < end; i += most_) {
      const int64_t count = std::min(most_, end - i);
      stage_(call_, i, count, staged_, length_);
      for (int64_t s = 0; s < count; ++s) scale(s);
      for (int64_t s = 0; s < count; ++s) compare_rows(s);
      for (int64_t s = 0; s < count; ++s) values[s] = value(s, i + s);
      for (int64_t s = 0; s < count; ++s) visit(i + s, s, values[s]);
    }
  }

  // Gradients of the rows of sample s in the cache, times `coefficient`.
  template <class F>
  MTLFAST_INLINE void grad(int64_t s, double coefficient, F* const* out) {
    const auto& length = length_[s];
    const auto &inverse = inverse_[s], &outward = outward_[s];
    const PairSums* sums = sums_[s];
    Coefficients k;
    bool zero = true;
    for (int row = 0; row < call_.inputs; ++row) k.along[row] = 0;
    for (int j = 0; j < call_.pairs; ++j) {
      const auto [a, b] = call_.pair[j];
      const double weight = coefficient * slopes_[s][j];
      // Nothing to do without a slope, unless an inf or NaN is to be passed on.
      zero = zero && weight == 0 && sums[j].term - sums[j].term == 0;
      k.first[j] = weight * outward[a];
      k.second[j] = -weight * outward[b];
      if (!call_.normalize) continue;
      double first = sums[j].first * inverse[a], second = sums[j].second * inverse[b];
      if constexpr (!kDots) {  // t.u_a and t.u_b from |u_a|, |u_b| and |t|
        first = 0.5 * (length[a] - length[b] + sums[j].term);
        second = 0.5 * (length[a] - length[b] - sums[j].term);
      }
      k.along[a] += k.first[j] * first * outward[a];
      k.along[b] += k.second[j] * second * outward[b];
    }
    const double* x = row(s, 0);
    const Difference* t = difference_[s];
    if (zero) {
      for (int row = 0; row < call_.inputs; ++row) std::fill_n(out[row], call_.width, F(0));
    } else if (call_.inputs == 2) {
      gradients<Metric, 2, false>(x, stride_, t, call_.p, k, width_, out);
    } else if (call_.inputs > 3) {
      level_gradients<Metric>(x, stride_, t, call_.p, k, call_.inputs, width_, row(most_, 0), out);
    } else if (call_.swap) {
      gradients<Metric, 3, true>(x, stride_, t, call_.p, k, width_, out);
    } else {
      gradients<Metric, 3, false>(x, stride_, t, call_.p, k, width_, out);
    }
  }

 private:
  MTLFAST_INLINE double* row(int64_t s, int index) { return staged_ + s * size_ + index * stride_; }

  // From |x|^2 to how a row enters, how its gradient leaves, and |u|^2.
  MTLFAST_INLINE void scale(int64_t s) {
    double* const lengths = length_[s];
    for (int i = 0; i < call_.inputs; ++i) {
      const double norm = square_root(lengths[i]);
      const bool is_short = call_.normalize && norm < kSmallestNorm;
      const double inverse = !call_.normalize ? 1 : 1 / (is_short ? kSmallestNorm : norm);
      inverse_[s][i] = inverse;
      outward_[s][i] = is_short ? 0 : inverse;
      lengths[i] = is_short ? lengths[i] * inverse * inverse : 1;
    }
    for (int j = 0; j < call_.pairs; ++j) {
      const auto [a, b] = call_.pair[j];
      difference_[s][j] = {inverse_[s][a], inverse_[s][b] / inverse_[s][a], call_.eps};
    }
  }

  MTLFAST_INLINE void compare_rows(int64_t s) {
    int j = 0;
    // One by one where the loss swaps: the distances of equal rows must tie.
    for (; j + 1 < call_.pairs && !call_.swap; j += 2) compare_pairs<2>(s, j);
    for (; j < call_.pairs; ++j) compare_pairs<1>(s, j);
  }

  template <int kPairs>
  MTLFAST_INLINE void compare_pairs(int64_t s, int j) {
    const RowPair* pair = call_.pair + j;
    compare<Metric, kDots, kPairs>(row(s, pair[0].first), row(s, pair[0].second),
                                   row(s, pair[kPairs - 1].second), difference_[s] + j, call_.p,
                                   width_, sums_[s] + j);
    // What the zeros behind the rows added.
    for (int i = j; i < j + kPairs; ++i) sums_[s][i].term -= padding_;
  }

  // The loss of sample s in the cache; leaves its derivative with respect to slope(t) per pair.
  MTLFAST_INLINE double value(int64_t s, int64_t index) {
    double distances[kMaxRows], chains[kMaxRows];
    for (int j = 0; j < call_.pairs; ++j) {
      // Parallel rows are 0 apart, whatever their lengths' rounding leaves.
      const bool parallel = sums_[s][j].term <= noise_ && difference_[s][j].ratio != 1;
      const auto distance =
          Metric::distance(parallel ? 0 : sums_[s][j].term, call_.p, call_.squared);
      distances[j] = distance.value;
      chains[j] = parallel ? 0 : distance.chain;
    }
    terms_.margin = number(call_.margin, index, call_.margin_value);
    terms_.same = call_.same &&
                  static_cast<const uint8_t*>(call_.same.data)[index * call_.same.row_stride] != 0;
    terms_.overlap = length_[s][0] + length_[s][1];
    double value = 0;
    visit_rows_loss(call_, [&](auto functor) MTLFAST_INLINED {
      value = functor.value(distances, terms_, slopes_[s]);
    });
    for (int j = 0; j < call_.pairs; ++j) slopes_[s][j] *= chains[j];
    return value;
  }

  const RowsCall& call_;
  int64_t stride_, width_, size_;  // of a staged row, with and without the gap; of a sample
  int64_t most_;                   // samples at a time
  std::vector<double> scratch_;
  double* staged_;  // the samples' rows, and one to spare, from the start of a cache line
  void (*stage_)(const RowsCall&, int64_t, int64_t, double*, double (*)[kMaxRows]);
  RowTerms<double> terms_;
  double padding_, noise_;
  double length_[kMaxSamples][kMaxRows], inverse_[kMaxSamples][kMaxRows],
      outward_[kMaxSamples][kMaxRows], slopes_[kMaxSamples][kMaxRows];
  Difference difference_[kMaxSamples][kMaxRows];
  PairSums sums_[kMaxSamples][kMaxRows];
};

}  // namespace mtlfast
