// The pointwise losses: one functor each, used by the CPU and the CUDA kernels alike. A functor
// sees one (x, y) pair: the logit or prediction, and a target that is present and already smoothed.
// `p` is the positive weight (1 where there is none). The mirror in kernels/losses.py spells the
// same names in the same order; mtlfast/ops/reference.py is the specification.
#pragma once

#include "logistic.h"
#include "parameters.h"
#include "powers.h"

namespace mtlfast {

// What a pointwise op is given beside tensors: label smoothing, then the loss's own parameters.
constexpr int kMaxParams = 5;
template <class F>
struct Packed {
  F values[kMaxParams];

  MTLFAST_INLINE F smoothing() const { return values[0]; }
};

// The same by name, as functors read it. A loop is compiled with kWhole where the loss's exponents
// are whole numbers that take no logarithm (whole()), and on a GPU with kShort where results have
// 16 bits.
template <class Loss, class F, bool kWhole_ = false, bool kShort_ = false>
struct Params : Loss::template Parameters<F> {
  static_assert(1 + kParameterCount<Loss> <= kMaxParams);
  static constexpr bool kWhole = kWhole_, kShort = kShort_;
  F smoothing;  // label smoothing s: y <- y (1 - s) + s / 2

  template <class G>
  MTLFAST_INLINE explicit Params(const Packed<G>& given)
      : Loss::template Parameters<F>(named<Loss, F>(given.values + 1)),
        smoothing(F(given.values[0])) {}
};

struct BinaryCrossEntropyWithLogits : WithoutParameters {
  static constexpr const char* kName = "binary_cross_entropy_with_logits";
  static constexpr bool kClassification = true, kWeightedMean = false, kWide = false;

  template <class F, class K>
  MTLFAST_INLINE static F value(F x, F y, F p, const K&) {
    const F positive_part = p * y, negative_part = F(1) - y;
    const F tail = log1p_unit<K::kShort>(Logistic<F>(x).exp_abs);
    return select(p == F(1), tail, tail * (negative_part + positive_part)) +
           select(x < F(0), -positive_part, negative_part) * x;
  }
  template <class F, class K>
  MTLFAST_INLINE static F grad(F x, F y, F p, const K&) {
    const F positive_part = p * y, negative_part = F(1) - y;
    const F smaller = Logistic<F>(x).smaller_sigmoid();
    const F part = select(p == F(1), smaller, smaller * (negative_part + positive_part));
    return select(x < F(0), part - positive_part, negative_part - part);
  }
};

// alpha is off when negative.
struct SigmoidFocalLoss {
  static constexpr const char* kName = "sigmoid_focal_loss";
  static constexpr bool kClassification = true, kWeightedMean = false, kWide = true;
  MTLFAST_PARAMETERS(alpha, gamma);
  template <class K>
  static constexpr bool whole(const K& k, bool) {
    return is_small_whole(k.gamma);
  }

  template <class F, class K>
  MTLFAST_INLINE static F focus(F miss, const K& k) {
    if constexpr (K::kWhole) return pow_whole(miss, k.gamma);
    return pow_unit(miss, k.gamma);
  }
  template <class F, class K>
  MTLFAST_INLINE static F balance(F y, const K& k) {
    const bool off = k.alpha < F(0);
    const F positive_part = select(off, F(1), k.alpha);
    const F negative_part = select(off, F(1), F(1) - k.alpha);
    return positive_part * y + negative_part * (F(1) - y);
  }
  template <class F, class K>
  MTLFAST_INLINE static F value(F x, F y, F p, const K& k) {
    const Logistic<F> logistic(x);
    const auto sigmoid = logistic.sigmoid();
    const auto softplus = logistic.template softplus<K::kShort>();
    const F cross_entropy = (F(1) - y) * softplus.plus + p * y * softplus.minus;
    const F miss = sigmoid.plus * (F(1) - y) + sigmoid.minus * y;  // 1 - p_t
    return balance(y, k) * cross_entropy * focus(miss, k);
  }
  template <class F, class K>
  MTLFAST_INLINE static F grad(F x, F y, F p, const K& k) {
    const Logistic<F> logistic(bounded(x));
    const auto sigmoid = logistic.sigmoid();
    const auto softplus = logistic.template softplus<K::kShort>();
    const F cross_entropy = (F(1) - y) * softplus.plus + p * y * softplus.minus;
    const F miss = sigmoid.plus * (F(1) - y) + sigmoid.minus * y;
    const F slope = sigmoid.plus * sigmoid.minus * (F(1) - F(2) * y);  // d miss / dx
    const F relative = divide(slope, positive(miss));  // miss = 0 only where slope is
    const F residual = (F(1) - y) * sigmoid.plus - p * y * sigmoid.minus;
    return balance(y, k) * focus(miss, k) * (residual + k.gamma * cross_entropy * relative);
  }
};

// Full gradient, as timm's.
struct AsymmetricLoss {
  static constexpr const char* kName = "asymmetric_loss";
  static constexpr bool kClassification = true, kWeightedMean = false, kWide = true;
  MTLFAST_PARAMETERS(gamma_neg, gamma_pos, clip, eps);
  template <class K>
  static constexpr bool whole(const K& k, bool hard) {
    return hard && is_small_whole(k.gamma_neg) && is_small_whole(k.gamma_pos);
  }

  template <class F>
  struct Parts {
    F plus, minus;          // sigmoid(x) and sigmoid(-x); as a pair inside they stop vectorisation
    F negative;             // probability of a negative, shifted by clip
    F log_likelihood;       // y log max(sigmoid.plus, eps) + (1 - y) log max(negative, eps)
    F miss, gamma, focus;   // 1 - p_t, its exponent and its power
    bool negative_clipped;  // negative reached 1: no gradient from there
  };
  template <class F, class K>
  MTLFAST_INLINE static Parts<F> parts(F x, F y, const K& k) {
    const Logistic<F> logistic(x, exp_rounded(-abs(x)));  // gamma multiplies a relative error
    const auto sigmoid = logistic.sigmoid();
    const F clip = select(k.clip > F(0), k.clip, F(0));
    const F shifted = sigmoid.minus + clip, beyond = logistic.plus_beyond(clip);
    const F negative = select(shifted > F(1), F(1), shifted);
    const F surplus = select(beyond < F(0), F(0), beyond);  // 1 - negative, exact
    const bool clipped = beyond < F(0);
    const F miss = y * sigmoid.minus + (F(1) - y) * surplus;
    const F gamma = k.gamma_pos * y + k.gamma_neg * (F(1) - y);
    if constexpr (K::kWhole) {  // y is 0 or 1
      const F hit = y * sigmoid.plus + (F(1) - y) * negative;
      const F focus = y * pow_whole(miss, k.gamma_pos) + (F(1) - y) * pow_whole(miss, k.gamma_neg);
      const F log_likelihood = log_hit(hit, miss, k.eps);
      return {sigmoid.plus, sigmoid.minus, negative, log_likelihood, miss, gamma, focus, clipped};
    } else {
      const F log_likelihood = y * log_hit(sigmoid.plus, sigmoid.minus, k.eps) +
                               (F(1) - y) * log_hit(negative, surplus, k.eps);
      const F focus = pow_unit(miss, gamma);
      return {sigmoid.plus, sigmoid.minus, negative, log_likelihood, miss, gamma, focus, clipped};
    }
  }
  template <class F, class K>
  MTLFAST_INLINE static F value(F x, F y, F, const K& k) {
    const auto part = parts(x, y, k);
    return -part.log_likelihood * part.focus;
  }
  template <class F, class K>
  MTLFAST_INLINE static F grad(F x, F y, F, const K& k) {
    const auto part = parts(x, y, k);
    const F slope = part.plus * part.minus;
    const F slope_neg = select(part.negative_clipped, F(0), -slope);
    const F log_slope =
        select(part.plus < k.eps, F(0), y * part.minus) +
        select(part.negative < k.eps, F(0), divide((F(1) - y) * slope_neg, part.negative));
    const F miss_slope = -(y * slope + (F(1) - y) * slope_neg);
    const F relative = divide(miss_slope, positive(part.miss));
    return -part.focus * (log_slope + part.log_likelihood * part.gamma * relative);
  }
};

struct MseLoss : WithoutParameters {
  static constexpr const char* kName = "mse_loss";
  static constexpr bool kClassification = false, kWeightedMean = true, kWide = false;

  template <class F, class K>
  MTLFAST_INLINE static F value(F x, F y, F, const K&) {
    return (x - y) * (x - y);
  }
  template <class F, class K>
  MTLFAST_INLINE static F grad(F x, F y, F, const K&) {
    return F(2) * (x - y);
  }
};

struct L1Loss : WithoutParameters {
  static constexpr const char* kName = "l1_loss";
  static constexpr bool kClassification = false, kWeightedMean = true, kWide = false;

  template <class F, class K>
  MTLFAST_INLINE static F value(F x, F y, F, const K&) {
    return abs(x - y);
  }
  template <class F, class K>
  MTLFAST_INLINE static F grad(F x, F y, F, const K&) {
    const F d = x - y;
    return d > F(0) ? F(1) : (d < F(0) ? F(-1) : F(0));  // at NaN 0 too, as torch's
  }
};

// beta = 0 is L1.
struct SmoothL1Loss {
  static constexpr const char* kName = "smooth_l1_loss";
  static constexpr bool kClassification = false, kWeightedMean = false, kWide = false;
  MTLFAST_PARAMETERS(beta);

  template <class F, class K>
  MTLFAST_INLINE static F value(F x, F y, F, const K& k) {
    const F d = abs(x - y);
    return d < k.beta ? divide(F(0.5) * d * d, k.beta) : d - F(0.5) * k.beta;
  }
  template <class F, class K>
  MTLFAST_INLINE static F grad(F x, F y, F p, const K& k) {
    const F d = x - y;
    return abs(d) >= k.beta || k.beta == F(0) ? L1Loss::grad(x, y, p, k) : divide(d, k.beta);
  }
};

// The list of pointwise losses: dispatch, the catalogue and the CUDA instantiations follow it.
#define MTLFAST_POINTWISE_LOSSES(X) \
  X(BinaryCrossEntropyWithLogits)   \
  X(SigmoidFocalLoss)               \
  X(AsymmetricLoss)                 \
  X(MseLoss)                        \
  X(L1Loss)                         \
  X(SmoothL1Loss)

}  // namespace mtlfast
