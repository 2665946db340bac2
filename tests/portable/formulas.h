// The losses as MATH has them, in long double.
#pragma once

#include "check.h"

namespace mtlfast {

inline Real sigmoid(Real x) {
  const Real e = std::exp(-std::fabs(x));
  return (x < 0 ? e : 1) / (1 + e);
}
inline Real softplus(Real x) { return std::log1p(std::exp(-std::fabs(x))) + std::max(x, Real(0)); }
inline Real power(Real u, Real g) { return g == 0 ? 1 : std::pow(u, g); }

struct Exact {
  Real value, gradient;
  Real near = 1;  // how many times the error is where rounding a sigmoid leaves no digits
};

using Given = Packed<double>;  // smoothing, then the loss's own parameters

inline Exact exact(BinaryCrossEntropyWithLogits, Real x, Real y, Real p, const Given&) {
  return {(1 - y) * softplus(x) + p * y * softplus(-x), (1 - y) * sigmoid(x) - p * y * sigmoid(-x)};
}

inline Exact exact(SigmoidFocalLoss, Real x, Real y, Real p, const Given& given) {
  const Real alpha = given.values[1], gamma = given.values[2];
  const Real balance = alpha < 0 ? 1 : alpha * y + (1 - alpha) * (1 - y);
  const Real entropy = (1 - y) * softplus(x) + p * y * softplus(-x);
  const Real miss = sigmoid(x) * (1 - y) + sigmoid(-x) * y;
  const Real slope = sigmoid(x) * sigmoid(-x) * (1 - 2 * y);
  const Real by_miss = gamma == 0 ? 0 : gamma * power(miss, gamma - 1) * slope * entropy;
  const Real by_entropy = power(miss, gamma) * ((1 - y) * sigmoid(x) - p * y * sigmoid(-x));
  return {balance * power(miss, gamma) * entropy, balance * (by_miss + by_entropy)};
}

inline Exact exact(AsymmetricLoss, Real x, Real y, Real, const Given& given) {
  const Real clip = given.values[3], eps = given.values[4];
  const Real gamma = given.values[2] * y + given.values[1] * (1 - y);
  const Real hit = sigmoid(x), slope = sigmoid(x) * sigmoid(-x);
  const bool clipped = hit < clip;
  const Real surplus = clipped ? 0 : hit - clip, negative = clipped ? 1 : sigmoid(-x) + clip;
  const Real log_hit = hit < eps ? std::log(eps) : -softplus(-x);
  const Real log_rest = negative < 0.5L ? std::log(negative) : std::log1p(-surplus);
  const Real likelihood = y * log_hit + (1 - y) * (negative < eps ? std::log(eps) : log_rest);
  const Real miss = y * sigmoid(-x) + (1 - y) * surplus;
  const Real slope_negative = clipped ? 0 : -slope;
  const Real by_likelihood = y * (hit < eps ? 0 : sigmoid(-x)) +
                             (1 - y) * (negative < eps ? 0 : slope_negative / negative);
  const Real miss_slope = -y * slope - (1 - y) * slope_negative;
  const Real by_miss = gamma == 0 || miss == 0 ? 0 : gamma * power(miss, gamma - 1) * miss_slope;
  return {-likelihood * power(miss, gamma),
          -(power(miss, gamma) * by_likelihood + likelihood * by_miss),
          1 + clip / std::fabs(hit - clip)};
}

inline Exact exact(MseLoss, Real x, Real y, Real, const Given&) {
  return {(x - y) * (x - y), 2 * (x - y)};
}
inline Exact exact(L1Loss, Real x, Real y, Real, const Given&) {
  return {std::fabs(x - y), Real(x > y) - Real(x < y)};
}
inline Exact exact(SmoothL1Loss, Real x, Real y, Real, const Given& given) {
  const Real d = x - y, beta = given.values[1];
  if (std::fabs(d) < beta) return {d * d / (2 * beta), d / beta};
  return {std::fabs(d) - beta / 2, Real(d > 0) - Real(d < 0)};
}

}  // namespace mtlfast
