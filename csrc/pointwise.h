// The pointwise losses: one functor each, used by the CPU and the CUDA kernels alike. A functor
// sees one (x, y) pair: the logit or prediction, and a target that is present and already smoothed.
// `p` is the positive weight (1 where there is none). The mirror in kernels/losses.py spells the
// same names in the same order; mtlfast/ops/reference.py is the specification.
#pragma once

#include "math.h"

namespace mtlfast {

// The arguments a loss takes beside its tensors, in the order of MF's signature. kGamma is the
// focal exponent where a loop was compiled for that one (0, 1 or 2 then cost no logarithm), else
// kAnyGamma.
constexpr int kAnyGamma = -1;
template <class F, int kGamma = kAnyGamma>
struct Params {
  F smoothing;  // label smoothing s: y <- y (1 - s) + s / 2
  F a, b, c, d;
};
constexpr int kMaxParams = 5;

struct BinaryCrossEntropyWithLogits {
  static constexpr const char* kName = "binary_cross_entropy_with_logits";
  static constexpr bool kClassification = true, kWeightedMean = false, kWide = false;
  static constexpr int kParams = 1;

  template <class F, int G>
  MTLFAST_INLINE static F value(F x, F y, F p, const Params<F, G>&) {
    const F positive = p * y, negative = F(1) - y;
    const F tail = log1p_unit(Logistic<F>(x).exp_abs);
    return (p == F(1) ? tail : tail * (negative + positive)) +
           (x < F(0) ? -positive : negative) * x;
  }
  template <class F, int G>
  MTLFAST_INLINE static F grad(F x, F y, F p, const Params<F, G>&) {
    const auto sigmoid = Logistic<F>(x).sigmoid();
    return (F(1) - y) * sigmoid.plus - p * y * sigmoid.minus;
  }
};

// a = alpha (off when negative), b = gamma.
struct SigmoidFocalLoss {
  static constexpr const char* kName = "sigmoid_focal_loss";
  static constexpr bool kClassification = true, kWeightedMean = false, kWide = true;
  static constexpr int kParams = 3;
  template <class F>
  static F gamma(const Params<F>& k) {
    return k.b;
  }

  template <class F, int G>
  MTLFAST_INLINE static F focus(F miss, const Params<F, G>& k) {
    if constexpr (G == 0) return F(1);
    if constexpr (G == 1) return miss;
    if constexpr (G == 2) return miss * miss;
    return pow_unit(miss, k.b);
  }
  template <class F, int G>
  MTLFAST_INLINE static F balance(F y, const Params<F, G>& k) {
    const F positive = k.a < F(0) ? F(1) : k.a, negative = k.a < F(0) ? F(1) : F(1) - k.a;
    return positive * y + negative * (F(1) - y);
  }
  template <class F, int G>
  MTLFAST_INLINE static F value(F x, F y, F, const Params<F, G>& k) {
    const Logistic<F> logistic(x);
    const auto sigmoid = logistic.sigmoid();
    const auto softplus = logistic.softplus();
    const F cross_entropy = (F(1) - y) * softplus.plus + y * softplus.minus;
    const F miss = sigmoid.plus * (F(1) - y) + sigmoid.minus * y;  // 1 - p_t
    return balance(y, k) * cross_entropy * focus(miss, k);
  }
  template <class F, int G>
  MTLFAST_INLINE static F grad(F x, F y, F, const Params<F, G>& k) {
    const Logistic<F> logistic(x);
    const auto sigmoid = logistic.sigmoid();
    const auto softplus = logistic.softplus();
    const F cross_entropy = (F(1) - y) * softplus.plus + y * softplus.minus;
    const F miss = sigmoid.plus * (F(1) - y) + sigmoid.minus * y;
    const F slope = sigmoid.plus * sigmoid.minus * (F(1) - F(2) * y);  // d miss / dx
    const F relative = divide(slope, positive(miss));  // miss = 0 only where slope is
    const F residual = (F(1) - y) * sigmoid.plus - y * sigmoid.minus;
    return balance(y, k) * focus(miss, k) * (residual + k.b * cross_entropy * relative);
  }
};

// a = gamma_neg, b = gamma_pos, c = clip, d = eps; full gradient, as timm's.
struct AsymmetricLoss {
  static constexpr const char* kName = "asymmetric_loss";
  static constexpr bool kClassification = true, kWeightedMean = false, kWide = true;
  static constexpr int kParams = 5;

  template <class F>
  struct Parts {
    F positive, negative;   // probability of a positive; of a negative, shifted by clip
    F log_likelihood;       // y log max(positive, eps) + (1 - y) log max(negative, eps)
    F miss, gamma;          // 1 - p_t and its exponent
    bool negative_clipped;  // negative reached 1: no gradient from there
  };
  template <class F, int G>
  MTLFAST_INLINE static Parts<F> parts(F x, F y, const Params<F, G>& k) {
    const auto sigmoid = Logistic<F>(x).sigmoid();
    const F shifted = sigmoid.minus + (k.c > F(0) ? k.c : F(0));
    const bool clipped = shifted > F(1);
    const F negative = clipped ? F(1) : shifted;
    const F floor_pos = sigmoid.plus < k.d ? k.d : sigmoid.plus;
    const F floor_neg = negative < k.d ? k.d : negative;
    const F surplus = k.c > F(0) ? sigmoid.plus - k.c : sigmoid.plus;  // 1 - negative, exact
    return {sigmoid.plus,
            negative,
            y * log_positive(floor_pos) + (F(1) - y) * log_positive(floor_neg),
            y * sigmoid.minus + (F(1) - y) * (surplus > F(0) ? surplus : F(0)),
            k.b * y + k.a * (F(1) - y),
            clipped};
  }
  template <class F, int G>
  MTLFAST_INLINE static F value(F x, F y, F, const Params<F, G>& k) {
    const auto part = parts(x, y, k);
    return -part.log_likelihood * pow_unit(part.miss, part.gamma);
  }
  template <class F, int G>
  MTLFAST_INLINE static F grad(F x, F y, F, const Params<F, G>& k) {
    const auto part = parts(x, y, k);
    const auto sigmoid = Logistic<F>(x).sigmoid();
    const F slope = sigmoid.plus * sigmoid.minus;
    const F slope_neg = part.negative_clipped ? F(0) : -slope;
    const F log_slope =
        (part.positive < k.d ? F(0) : y * sigmoid.minus) +
        (part.negative < k.d ? F(0) : divide((F(1) - y) * slope_neg, part.negative));
    const F miss_slope = -(y * slope + (F(1) - y) * slope_neg);
    const F relative = divide(miss_slope, positive(part.miss));
    return -pow_unit(part.miss, part.gamma) *
           (log_slope + part.log_likelihood * part.gamma * relative);
  }
};

struct MseLoss {
  static constexpr const char* kName = "mse_loss";
  static constexpr bool kClassification = false, kWeightedMean = true, kWide = false;
  static constexpr int kParams = 1;

  template <class F, int G>
  MTLFAST_INLINE static F value(F x, F y, F, const Params<F, G>&) {
    return (x - y) * (x - y);
  }
  template <class F, int G>
  MTLFAST_INLINE static F grad(F x, F y, F, const Params<F, G>&) {
    return F(2) * (x - y);
  }
};

struct L1Loss {
  static constexpr const char* kName = "l1_loss";
  static constexpr bool kClassification = false, kWeightedMean = true, kWide = false;
  static constexpr int kParams = 1;

  template <class F, int G>
  MTLFAST_INLINE static F value(F x, F y, F, const Params<F, G>&) {
    return abs(x - y);
  }
  template <class F, int G>
  MTLFAST_INLINE static F grad(F x, F y, F, const Params<F, G>&) {
    const F d = x - y;
    return d > F(0) ? F(1) : (d < F(0) ? F(-1) : d);  // 0 at 0, NaN at NaN
  }
};

// a = beta; beta = 0 is L1.
struct SmoothL1Loss {
  static constexpr const char* kName = "smooth_l1_loss";
  static constexpr bool kClassification = false, kWeightedMean = false, kWide = false;
  static constexpr int kParams = 2;

  template <class F, int G>
  MTLFAST_INLINE static F value(F x, F y, F, const Params<F, G>& k) {
    const F d = abs(x - y);
    return d < k.a ? divide(F(0.5) * d * d, k.a) : d - F(0.5) * k.a;
  }
  template <class F, int G>
  MTLFAST_INLINE static F grad(F x, F y, F p, const Params<F, G>& k) {
    const F d = x - y;
    return abs(d) < k.a ? divide(d, k.a) : L1Loss::grad(x, y, p, k);
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
