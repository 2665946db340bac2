// sigmoid and softplus, for float and double, on host and device.
#pragma once

#include "math.h"

namespace mtlfast {

// sigmoid(x) and sigmoid(-x), softplus(x) and softplus(-x), all from one exponential: no positive
// number is ever exponentiated, and only the larger sigmoid is formed as one minus the other, which
// halves its error against 1 / (1 + exp(-|x|)).
template <class F>
struct Logistic {
  F exp_abs;  // exp(-|x|)
  F x;

  MTLFAST_INLINE explicit Logistic(F logit) : Logistic(logit, exp_nonpositive(-abs(logit))) {}
  MTLFAST_INLINE Logistic(F logit, F exp_abs) : exp_abs(exp_abs), x(logit) {}

  struct Pair {
    F plus, minus;
  };
  MTLFAST_INLINE F smaller_sigmoid() const { return divide(exp_abs, F(1) + exp_abs); }
  MTLFAST_INLINE Pair sigmoid() const {
    const F smaller = smaller_sigmoid(), larger = F(1) - smaller;
    const bool below = x < F(0);
    return {select(below, smaller, larger), select(below, larger, smaller)};
  }
  // sigmoid(x) - c; of floats, which would show the larger one's rounding, in one quotient.
  MTLFAST_INLINE F plus_beyond(F c) const {
    if constexpr (sizeof(F) == sizeof(float)) {
      const bool below = x < F(0);
      const F over = select(below, F(1) - c, -c), rest = select(below, -c, F(1) - c);
      return divide(::fmaf(exp_abs, over, rest), F(1) + exp_abs);
    }
    return sigmoid().plus - c;
  }
  template <bool kShort = false>
  MTLFAST_INLINE Pair softplus() const {
    const F tail = log1p_unit<kShort>(exp_abs);
    const bool below = x < F(0);
    return {tail + select(below, F(0), x), tail + select(below, -x, F(0))};
  }
};

// In four instructions on the device, where a large power is infinite and its inverse 0.
MTLFAST_INLINE float sigmoid(float x) {
#if defined(MTLFAST_GPU)
  return divide(1.0f, 1.0f + exp2_approx(x * -1.44269504f));
#else
  return Logistic<float>(x).sigmoid().plus;
#endif
}

}  // namespace mtlfast
