// Float32 losses whose powers would lose digits are evaluated in double on the CPU, with
// polynomials for 9 digits instead of 16: the result is rounded to 7.
#pragma once

#include "math.h"

namespace mtlfast {

struct Wide {
  double v;

  Wide() = default;
  MTLFAST_INLINE explicit constexpr Wide(double value) : v(value) {}
  template <class T>
  MTLFAST_INLINE explicit operator T() const {
    return static_cast<T>(v);
  }

  MTLFAST_INLINE friend Wide operator-(Wide a) { return Wide(-a.v); }
  MTLFAST_INLINE friend Wide operator+(Wide a, Wide b) { return Wide(a.v + b.v); }
  MTLFAST_INLINE friend Wide operator-(Wide a, Wide b) { return Wide(a.v - b.v); }
  MTLFAST_INLINE friend Wide operator*(Wide a, Wide b) { return Wide(a.v * b.v); }
  MTLFAST_INLINE friend Wide operator/(Wide a, Wide b) { return Wide(a.v / b.v); }
  MTLFAST_INLINE friend bool operator<(Wide a, Wide b) { return a.v < b.v; }
  MTLFAST_INLINE friend bool operator>(Wide a, Wide b) { return a.v > b.v; }
  MTLFAST_INLINE friend bool operator<=(Wide a, Wide b) { return a.v <= b.v; }
  MTLFAST_INLINE friend bool operator==(Wide a, Wide b) { return a.v == b.v; }
};

template <>
MTLFAST_INLINE Wide select(bool condition, Wide yes, Wide no) {
  return Wide(condition ? yes.v : no.v);
}
template <>
MTLFAST_INLINE Wide abs(Wide x) {
  return Wide(::fabs(x.v));
}
MTLFAST_INLINE Wide divide(Wide a, Wide b) { return a / b; }

// Relative error 3e-9, as of the next two.
MTLFAST_INLINE Wide exp_nonpositive(Wide given) {
  constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.69314718055994531;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  const double x = given.v < -708.0 ? -708.0 : given.v;
  const double shifted = x * kLog2e + kRound;
  const double r = x - (shifted - kRound) * kLn2;
  double p = 1.3814463902224306e-03;
  p = p * r + 8.3687803819531270e-03;
  p = p * r + 4.1668394262514483e-02;
  p = p * r + 1.6666520108249142e-01;
  p = p * r + 4.9999993412346603e-01;
  p = p * r * r + r + 1.0;
  const auto exponent = static_cast<int64_t>(bits_as<uint64_t>(shifted) << 52);
  return Wide(bits_as<double>(bits_as<int64_t>(p) + exponent));
}

// log(1 + f) = 2 atanh(s), s = f / (2 + f).
MTLFAST_INLINE Wide log1p_unit(Wide e) {
  const double s = e.v / (2.0 + e.v), z = s * s;
  double p = 2.8024458827414419e-01;
  p = p * z + 2.7999141101257840e-01;
  p = p * z + 4.0021699056048602e-01;
  p = p * z + 6.6666413132788755e-01;
  return Wide(p * z * s + 2.0 * s);
}
MTLFAST_INLINE Wide log_positive(Wide given) {
  constexpr int64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  constexpr double kShift = 4503599627370496.0;  // 2^52
  const double u = positive(given.v);
  const int64_t steps = (bits_as<int64_t>(u) - kSqrtHalf) & ~((int64_t{1} << 52) - 1);
  const double f = bits_as<double>(bits_as<int64_t>(u) - steps) - 1.0 + (u - u);
  const uint64_t biased = static_cast<uint64_t>(steps + (int64_t{1023} << 52)) >> 52;
  const double n = bits_as<double>(biased | bits_as<uint64_t>(kShift)) - (kShift + 1023.0);
  const double s = f / (2.0 + f), z = s * s;
  double p = 2.9872310415982775e-01;
  p = p * z + 3.9977521664585187e-01;
  p = p * z + 6.6666776526758492e-01;
  return Wide(n * 0.69314718055994531 + (p * z * s + 2.0 * s));
}

}  // namespace mtlfast
