// Float32 losses whose powers would lose digits, of labels that are not 0 and 1 or of exponents
// that are not whole, are evaluated in double on the CPU, with polynomials for 8 digits instead of
// 16: the result is rounded to 7.
#pragma once

#include <type_traits>

#include "sides.h"

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

// Relative errors 3e-9, 5e-9 and 1e-9.
MTLFAST_INLINE Wide exp_nonpositive(Wide x) {
  return Wide(exp_by(x.v, 1.3814463902224306e-03, 8.3687803819531270e-03, 4.1668394262514483e-02,
                     1.6666520108249142e-01, 4.9999993412346603e-01));
}
MTLFAST_INLINE Wide log1p_unit(Wide e) {
  const double s = e.v / (2.0 + e.v), z = s * s;  // 2 atanh(s)
  const double q = horner(z, 2.8024458827414419e-01, 2.7999141101257840e-01, 4.0021699056048602e-01,
                          6.6666413132788755e-01);
  return Wide(q * z * s + 2.0 * s);
}
MTLFAST_INLINE Wide log_positive(Wide u) {
  return Wide(log_by(u.v, 2.9872310415982775e-01, 3.9977521664585187e-01, 6.6666776526758492e-01));
}

// The type that a functor with such params is evaluated in.
template <class K>
using NumberOf = decltype(K::smoothing);

template <class Functor>
concept HasWhole = requires(const Params<Functor, double>& k) { Functor::whole(k, true); };

// Calls visit(functor, params): those of the labels' own side where there are such (`hard`: every
// label is 0, 1 or missing), else the loss's, with params of the type that it is evaluated in for a
// tile of F, marked where the exponents are whole.
template <class Functor, class F, class Visit>
inline MTLFAST_INLINED void visit_params(const Packed<double>& given, bool hard, Visit&& visit) {
  using E = std::conditional_t<Functor::kWide && std::is_same_v<F, float>, Wide, F>;
  if constexpr (HasWhole<Functor>) {
    const Params<Functor, double> k(given);
    if constexpr (std::is_same_v<F, float> && OwnSide<Functor>::kExists) {
      if (hard && OwnSide<Functor>::covers(k)) {
        return visit(Sided<Functor>(), Params<Functor, F>(given));
      }
    }
    if (Functor::whole(k, hard)) return visit(Functor(), Params<Functor, E, true>(given));
  }
  visit(Functor(), Params<Functor, E>(given));
}

// The label of a wide loss is smoothed here, that of another where it is staged: rounded to float
// before, its rounding would be what is left of the loss's error. Labels on their own side, which
// are evaluated in float, are not smoothed.
template <class Functor, class E, class K>
MTLFAST_INLINE E evaluated_label(E y, const K& k) {
  if constexpr (Functor::kWide && !std::is_same_v<E, float>) {
    return y * (E(1) - k.smoothing) + E(0.5) * k.smoothing;
  }
  return y;
}

}  // namespace mtlfast
