// Losses of a label that is 0 or 1, on its own side: functions of s, the logit of a miss, which is
// x where the label is 0 and -x where it is 1, with half the steps of pointwise.h. GPU kernels take
// them for labels of one byte, CPU loops for the wide losses in float. `positive`: the label is 1.
// Gradients are with respect to s.
//
// OwnSide(s, positive, k) is what value and grad share; `power` is its miss to the exponent that
// the caller has from value_exponents or grad_exponents, the same for all elements.
#pragma once

#include <algorithm>

#include "pointwise.h"

namespace mtlfast {

// Larger exponents would show the errors of the exponential and the quotient.
constexpr int kMostOfSides = 4;

// Of labels 0 and 1.
template <class F>
struct Exponents {
  F negative, positive;
};

// max(s, 0), but NaN at -inf, as 0 times the loss of the other side is in the specification.
template <class F>
MTLFAST_INLINE F positive_part(F s) {
  return F(0.5) * abs(s) + F(0.5) * s;
}

template <class Loss>
struct OwnSide {
  static constexpr bool kExists = false, kPowers = false, kTwoExponents = false;
  template <class K>
  static bool covers(const K&) {
    return false;
  }
};

template <>
struct OwnSide<BinaryCrossEntropyWithLogits> {
  static constexpr bool kExists = true, kPowers = false, kTwoExponents = false;
  template <class K>
  static bool covers(const K&) {
    return true;
  }

  float s, miss;
  OwnSide() = default;
  template <class K>
  MTLFAST_INLINE OwnSide(float s, bool, const K&) : s(s), miss(0) {}

  template <class K>
  MTLFAST_INLINE float value(bool positive, float p, float, const K&) const {
    const float tail = log1p_unit<K::kShort>(exp_nonpositive(-abs(s)));
    return select(positive, p, 1.0f) * (tail + positive_part(s));
  }
  template <class K>
  MTLFAST_INLINE float grad(bool positive, float p, float, const K&) const {
    return select(positive, p, 1.0f) * sigmoid(s);
  }
};

template <>
struct OwnSide<SigmoidFocalLoss> {
  static constexpr bool kExists = true, kPowers = true, kTwoExponents = false;
  template <class K>
  static bool covers(const K& k) {
    return is_small_whole(k.gamma) && k.gamma <= kMostOfSides;
  }
  template <class K>
  MTLFAST_INLINE static Exponents<float> value_exponents(const K& k) {
    return {k.gamma, k.gamma};
  }
  template <class K>
  MTLFAST_INLINE static Exponents<float> grad_exponents(const K& k) {
    return {k.gamma, k.gamma};
  }

  float s, exp_abs, miss, hit;
  OwnSide() = default;
  template <class K>
  MTLFAST_INLINE OwnSide(float s, bool, const K&) : s(s), exp_abs(exp_nonpositive(-abs(s))) {
    const float larger = divide(1.0f, 1.0f + exp_abs), smaller = exp_abs * larger;
    const bool below = s < 0.0f;
    miss = select(below, smaller, larger);
    hit = select(below, larger, smaller);
  }

  template <class K>
  MTLFAST_INLINE static float balance(bool positive, float p, const K& k) {
    const bool off = k.alpha < 0.0f;
    return select(positive, p * select(off, 1.0f, k.alpha), select(off, 1.0f, 1.0f - k.alpha));
  }
  template <class K>
  MTLFAST_INLINE float value(bool positive, float p, float power, const K& k) const {
    const float cross_entropy = log1p_unit<K::kShort>(exp_abs) + positive_part(s);
    return balance(positive, p, k) * cross_entropy * power;
  }
  template <class K>
  MTLFAST_INLINE float grad(bool positive, float p, float power, const K& k) const {
    const float excess = at_least(bounded(s), 0.0f);
    const float cross_entropy = log1p_unit<K::kShort>(exp_abs) + excess;
    return balance(positive, p, k) * power * (miss + k.gamma * hit * cross_entropy);
  }
};

template <>
struct OwnSide<AsymmetricLoss> {
  static constexpr bool kExists = true, kPowers = true, kTwoExponents = true;
  template <class K>
  static bool covers(const K& k) {
    return AsymmetricLoss::whole(k, true) && k.gamma_neg <= kMostOfSides &&
           k.gamma_pos <= kMostOfSides && k.eps <= 0.5;
  }
  template <class K>
  MTLFAST_INLINE static Exponents<float> value_exponents(const K& k) {
    return {k.gamma_neg, k.gamma_pos};
  }
  template <class K>
  MTLFAST_INLINE static Exponents<float> grad_exponents(const K& k) {
    return {at_least(k.gamma_neg - 1.0f, 0.0f), at_least(k.gamma_pos - 1.0f, 0.0f)};
  }

  float miss;           // its probability, a negative's clipped
  float hit, inverse;   // what is left of 1, at least eps in the inverse
  float odds;           // miss / hit
  float slope, beyond;  // d miss / ds, and miss before it was clipped
  float minus_log;      // -log(max(hit, eps))
  OwnSide() = default;
  template <class K>
  MTLFAST_INLINE OwnSide(float s, bool positive, const K& k) {
    const float all = at_least(k.clip, 0.0f), clip = select(positive, 0.0f, all);
    const float rest = select(positive, 1.0f, 1.0f - all);
    const float exp_abs = exp_compensated(-abs(s));  // gamma multiplies a relative error
    const float larger = divide(1.0f, 1.0f + exp_abs), smaller = exp_abs * larger;
    const bool below = s < 0.0f;
    slope = smaller * larger;
    // sigmoid(s) - clip, but in one quotient: near 0 it would show the rounding of the other.
    beyond = larger *
             select(below, multiply_add(exp_abs, rest, -clip), multiply_add(exp_abs, -clip, rest));
    hit = select(below, larger, smaller) + clip;
    miss = at_least(beyond, 0.0f);
    inverse = divide(1.0f, at_least(hit, mtlfast::positive(k.eps)));
    odds = miss * inverse;
    minus_log = minus_log_hit(hit, miss, k.eps, inverse);
  }

  template <class K>
  MTLFAST_INLINE float value(bool, float, float power, const K&) const {
    return minus_log * power;
  }
  template <class K>
  MTLFAST_INLINE float grad(bool positive, float, float power, const K& k) const {
    const float gamma = select(positive, k.gamma_pos, k.gamma_neg);
    const float ratio = select(gamma == 0.0f && beyond >= 0.0f, inverse, odds);
    const float by_hit = select(hit < k.eps, 0.0f, ratio);
    return slope * power * (by_hit + gamma * minus_log);
  }
};

// The same as a functor of pointwise.h, for labels y of 0 and 1.
template <class Loss>
struct Sided : Loss {
  template <class K>
  MTLFAST_INLINE static float value(float x, float y, float p, const K& k) {
    return compute<false>(x, y > 0.5f, p, k);
  }
  template <class K>
  MTLFAST_INLINE static float grad(float x, float y, float p, const K& k) {
    const float slope = compute<true>(x, y > 0.5f, p, k);
    return select(y > 0.5f, -slope, slope);
  }

 private:
  template <bool kGrad, class K>
  MTLFAST_INLINE static float compute(float x, bool positive, float p, const K& k) {
    const OwnSide<Loss> own(select(positive, -x, x), positive, k);
    float power = 1;
    if constexpr (OwnSide<Loss>::kPowers) {
      const auto exponents =
          kGrad ? OwnSide<Loss>::grad_exponents(k) : OwnSide<Loss>::value_exponents(k);
      power = pow_whole(own.miss, select(positive, exponents.positive, exponents.negative));
    }
    return kGrad ? own.grad(positive, p, power, k) : own.value(positive, p, power, k);
  }
};

}  // namespace mtlfast
