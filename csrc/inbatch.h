// The in-batch losses' formulas: when a pair's distance is taken from differences, what one triplet
// adds, and the derivative of a distance. mtlfast/ops/inbatch.py tells what an op does with them.
#pragma once

#include "rows.h"

namespace mtlfast {

// d^2 = |x|^2 + |y|^2 - 2 x.y has lost two digits where it is below this share of |x|^2 + |y|^2.
constexpr double kNear = 1e-2;

// w dd/|x - y|, for the distance or its square.
template <bool kSquared, class F>
MTLFAST_INLINE F chained(F w, F d) {
  const F quotient = w / (kSquared ? F(0.5) : d);
  return !kSquared && d == F(0) ? F(0) : quotient;
}

namespace parameters_of {
struct batch_triplet_loss {
  MTLFAST_PARAMETERS(mining, margin, squared, soft);
};
struct batch_contrastive_loss {
  MTLFAST_PARAMETERS(pos_margin, neg_margin, squared);
};
}  // namespace parameters_of

// The losses, in the order of their numbers.
#define MTLFAST_INBATCH_LOSSES(X) \
  X(batch_triplet_loss)           \
  X(batch_contrastive_loss)

enum class Mining : int { kAll, kHard, kSemihard };

// What one triplet adds, by the difference d_an - d_ap: `weight` is the derivative of its loss with
// respect to d_ap, and the negative of that to d_an. kValued: `value` is its loss; else the loss
// follows from weights that are 0 or 1, sum W d + margin x number. kCounted: `mined` says whether
// the triplet was mined at all; else all are.
template <class F>
struct Contribution {
  F weight, value, mined;
};

template <class F>
struct HingeTriplet {
  static constexpr bool kValued = false, kCounted = false;
  F margin;
  MTLFAST_INLINE Contribution<F> operator()(F difference) const {
    return {difference < margin ? F(1) : F(0), F(0), F(1)};
  }
};

template <class F>
struct SemihardTriplet {
  static constexpr bool kValued = false, kCounted = true;
  F margin;
  MTLFAST_INLINE Contribution<F> operator()(F difference) const {
    const bool beyond = difference > F(0);
    return {beyond & (difference < margin) ? F(1) : F(0), F(0),
            beyond & (difference <= margin) ? F(1) : F(0)};
  }
};

template <class F, bool kSemihard>
struct SoftTriplet {
  static constexpr bool kValued = true, kCounted = kSemihard;
  F margin;
  MTLFAST_INLINE Contribution<F> operator()(F difference) const {
    const Logistic<F> logistic(margin - difference);
    const F weight = logistic.sigmoid().plus, value = logistic.softplus().plus;
    if constexpr (!kSemihard) return {weight, value, F(1)};
    const bool mined = (difference > F(0)) & (difference <= margin);
    return {mined ? weight : F(0), mined ? value : F(0), mined ? F(1) : F(0)};
  }
};

}  // namespace mtlfast
