// A sample, one row of each operand, on the CPU: from its rows to its loss to its gradients.
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

// Whether a call's differences may be floats: two rows or three, of which the anchor alone is in
// two pairs.
inline bool float_serves(const RowsCall& call) {
  return call.compute == ScalarType::Float && call.metric == Metric::kSquares && call.inputs <= 3 &&
         !call.swap && !(call.normalize && call.eps != 0) && fuses_products();
}

// One sample after the other, from its rows to its loss to its gradients.
template <class Metric, bool kDots, class A, class F>
class Sample {
 public:
  // A gradient in the type of its terms, which may all but cancel, is projected itself; those in
  // float of terms in double are projected as they are formed. Where terms are floats, the anchor's
  // alone has more than one.
  static constexpr bool kProjects = std::is_same_v<A, F>, kFloat = std::is_same_v<A, float>;
  static_assert(!kProjects || !kDots);

  explicit Sample(const RowsCall& call)
      : call_(call),
        stride_(staged_stride<F>(call.width)),
        width_(padded(call.width)),
        scratch_(call.inputs * stride_ + kBlock),
        staged_(from_cache_line(scratch_.data())),
        anchor_(call.inputs > 3 ? stride_ : 0) {
    visit_floating(call.dtype, [&](auto t) { stage_ = stage_sample<decltype(t), F>; });
    terms_.scale = number({call.scale, call.compute, 0, 0}, 0, 1);
    terms_.bias = number({call.bias, call.compute, 0, 0}, 0, 0);
    terms_.gaps = call.margin ? nullptr : call.gaps;
    terms_.levels = call.levels();
    const int64_t rest = call.width - (width_ - kBlock);
    for (int64_t i = 0; i < kBlock; ++i) tail_[i] = i < rest ? A(call.eps) : A(0);
    // |2^-51 u|_p^p is at most this, for unit rows u; the two parts of a ratio hold 48 bits.
    const double spread = std::pow(static_cast<double>(call.width), 1 - 0.5 * call.p);
    const double lost = kFloat ? 0x1p-46 : 0x1p-51;
    noise_ = call.normalize && call.eps == 0 ? std::pow(lost, call.p) * std::max(spread, 1.0) : -1;
  }

  // The loss of a sample, before its weight.
  MTLFAST_INLINE double value(int64_t index) {
    stage_(call_, index, staged_, rows_);
    if (call_.normalize) sum_squares(rows_, call_.inputs, width_, length_);
    scale();
    int j = 0;
    // One by one where the loss swaps: the distances of equal rows must tie.
    for (; j + 1 < call_.pairs && !call_.swap; j += 2) compare_pairs<2>(j);
    for (; j < call_.pairs; ++j) compare_pairs<1>(j);
    for (int i = 0; i < call_.pairs; ++i) {
      // Parallel rows are 0 apart, whatever their lengths' rounding leaves.
      const bool parallel = sums_[i].term <= noise_ && ratio_[i] != 1;
      const auto distance = Metric::distance(parallel ? 0 : sums_[i].term, call_.p, call_.squared);
      distances_[i] = distance.value;
      chains_[i] = parallel ? 0 : distance.chain;
    }
    terms_.margin = number(call_.margin, index, call_.margin_value);
    terms_.same = call_.same &&
                  static_cast<const uint8_t*>(call_.same.data)[index * call_.same.row_stride] != 0;
    terms_.overlap = call_.normalize ? length_[0] + length_[1] : 0;
    double value = 0;
    visit_rows_loss(call_, [&](auto functor) MTLFAST_INLINED {
      value = functor.value(distances_, terms_, slopes_);
    });
    return value;
  }

  // After value(): the gradients of the sample's rows, times `coefficient`.
  MTLFAST_INLINE void grad(double coefficient, F* const* out) {
    Coefficients k;
    bool zero = true;
    for (int j = 0; j < call_.pairs; ++j) {
      const auto [a, b] = call_.pair[j];
      const double weight = coefficient * slopes_[j] * chains_[j];
      // Nothing to do without a slope, unless an inf or NaN is to be passed on.
      zero = zero && weight == 0 && sums_[j].term - sums_[j].term == 0;
      k.first[j] = weight * outward_[a];
      k.second[j] = -weight * outward_[b];
      if ((kProjects && !kFloat) || !call_.normalize) continue;
      double first = sums_[j].first * inverse_[a], second = sums_[j].second * inverse_[b];
      if constexpr (!kDots) {  // t.u_a and t.u_b from |u_a|, |u_b| and |t|
        first = 0.5 * (length_[a] - length_[b] + sums_[j].term);
        second = 0.5 * (length_[a] - length_[b] - sums_[j].term);
      }
      if (!kFloat || call_.pairs == 1) k.along[a] += k.first[j] * first * outward_[a];
      k.along[b] += k.second[j] * second * outward_[b];
    }
    if (zero) {
      for (int row = 0; row < call_.inputs; ++row) std::fill_n(out[row], call_.width, F(0));
    } else if (call_.inputs == 2) {
      gradients<Metric, 2, false>(rows_, difference_, call_.p, k, width_, out);
    } else if constexpr (kFloat) {
      gradients<Metric, 3, false>(rows_, difference_, call_.p, k, width_, out);
    } else if (call_.inputs > 3) {
      level_gradients<Metric>(rows_, difference_, call_.p, k, call_.inputs, width_, anchor_.data(),
                              out);
    } else if (call_.swap) {
      gradients<Metric, 3, true>(rows_, difference_, call_.p, k, width_, out);
    } else {
      gradients<Metric, 3, false>(rows_, difference_, call_.p, k, width_, out);
    }
    if (!kProjects || zero || !call_.normalize) return;
    // Nearly opposite rows' gradients are nearly along them: what the coefficients took shows.
    bool wide = false;
    for (int j = 0; j < call_.pairs; ++j) wide = wide || sums_[j].term > 3;
    const int projected = !kFloat || wide ? call_.inputs : call_.pairs > 1 ? 1 : 0;
    for (int row = 0; row < projected; ++row) {
      take_along<A>(rows_[row], outward_[row], width_, out[row]);
    }
  }

 private:
  static F* from_cache_line(F* data) {
    constexpr uintptr_t kLine = 64;
    return reinterpret_cast<F*>((reinterpret_cast<uintptr_t>(data) + kLine - 1) & ~(kLine - 1));
  }

  template <int kPairs>
  MTLFAST_INLINE void compare_pairs(int j) {
    const RowPair* pair = call_.pair + j;
    const F* const others[] = {rows_[pair[0].second], rows_[pair[kPairs - 1].second]};
    compare<Metric, kDots, kPairs>(rows_[pair[0].first], others, difference_ + j, tail_, call_.p,
                                   width_, sums_ + j);
  }

  // From |x|^2 to how a row enters, how its gradient leaves, and |u|^2.
  MTLFAST_INLINE void scale() {
    for (int i = 0; i < call_.inputs; ++i) {
      inverse_[i] = outward_[i] = 1;
      if (!call_.normalize) continue;
      const double norm = square_root(length_[i]);
      const bool is_short = norm < kSmallestNorm;
      inverse_[i] = 1 / (is_short ? kSmallestNorm : norm);
      outward_[i] = is_short ? 0 : inverse_[i];
      length_[i] = is_short ? length_[i] * inverse_[i] * inverse_[i] : 1;
    }
    for (int j = 0; j < call_.pairs; ++j) {
      const auto [a, b] = call_.pair[j];
      ratio_[j] = call_.normalize ? inverse_[b] / inverse_[a] : 1;
      difference_[j] = {inverse_[a], ratio_[j], call_.eps};
    }
  }

  const RowsCall& call_;
  int64_t stride_, width_;  // of the staged rows
  std::vector<F> scratch_;
  F* staged_;                   // rows, from the start of a cache line
  std::vector<double> anchor_;  // a gradient
  const F* rows_[kMaxRows];
  void (*stage_)(const RowsCall&, int64_t, F*, const F**);
  RowTerms<double> terms_;
  A tail_[kBlock];
  double noise_;
  double length_[kMaxRows], inverse_[kMaxRows], outward_[kMaxRows];
  double distances_[kMaxRows], chains_[kMaxRows], slopes_[kMaxRows];
  double ratio_[kMaxRows];
  Difference<A> difference_[kMaxRows];
  PairSums sums_[kMaxRows];
};

}  // namespace mtlfast
