// Powers with exponents that are numbers at run time.
#pragma once

#include "math.h"

namespace mtlfast {

// u^g for u in [0, 1] and g >= 0, with 0^0 = 1.
template <class F>
MTLFAST_INLINE F pow_unit(F u, F g) {
  return exp_nonpositive(g * log_positive(u));  // no test of g: as a branch, it stops vectorisation
}
#if defined(MTLFAST_GPU)
// g log2(u) has up to 100 units in front of the point: rounded as one, it would cost the fraction.
template <>
MTLFAST_INLINE float pow_unit(float u, float g) {
  if (g == 2.0f) return u * u;  // the focal losses' exponents; a warp seldom meets another
  if (g == 4.0f) return (u * u) * (u * u);
  if (g == 1.0f) return u;
  if (g == 0.0f) return 1.0f;
  const Binary binary(positive(u));
  const float high = g * binary.n;
  const float low = ::fmaf(g, binary.n, -high) + g * binary.log * 1.44269504f;
  const float product = high + low;
  // exp2(x + rest) is exp2(x) (1 + ln 2 rest).
  const float rest = (high - product) + low, power = exp2_approx(product);
  return ::fmaf(power, rest * 0.693147181f, power);
}
#endif

// u^g for g = 0, 1, ..., 7, by squares; factors instead of branches on g, so that it vectorises.
constexpr int kMaxWhole = 7;
constexpr bool is_small_whole(double g) {
  return g >= 0 && g <= kMaxWhole && g == static_cast<int>(g);
}
template <class F>
MTLFAST_INLINE F pow_whole(F u, F g) {
  const int bits = static_cast<int>(g);
  const F one = F(bits & 1), two = F(bits >> 1 & 1), four = F(bits >> 2 & 1);
  const F square = u * u;
  return (one * u + (F(1) - one)) * (two * square + (F(1) - two)) *
         (four * (square * square) + (F(1) - four));
}
// By selections, without a conversion; where g is the same for all, conditions are found once.
template <>
MTLFAST_INLINE float pow_whole(float u, float g) {
  const uint32_t bits = bits_as<uint32_t>(g + 8388608.0f);
  const float square = u * u;
  return select((bits & 1) != 0, u, 1.0f) * select((bits & 2) != 0, square, 1.0f) *
         select((bits & 4) != 0, square * square, 1.0f);
}

}  // namespace mtlfast
