// What the checks of numerics.cpp share: sweeps of numbers, loops that a compiler vectorises, and
// the worst error of each check in units of what is allowed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <vector>

#include "cpu/wide.h"

namespace mtlfast {

using Real = long double;  // of 64 bits or more, but for compilers that have none

constexpr Real kTiny = 1e-30L;

inline int numbers = 1 << 13;  // of each sign, of every size, and as many of equal distance
inline bool failed = false;

template <class F>
constexpr const char* kTypeName = std::is_same_v<F, float> ? "float" : "double";

// Prints the worst error of a check.
inline void tell(const char* name, const char* type, Real worst) {
  const bool within = worst <= 1;  // not of a NaN
  failed = failed || !within;
  std::printf("%-36s %-12s %.3Lf%s\n", name, type, worst, within ? "" : "  FAILED");
}

// The larger one, or NaN where either is.
inline Real worse(Real one, Real other) { return one >= other || one != one ? one : other; }

// Numbers of both signs and of every size from low to high.
template <class F>
std::vector<F> sweep(Real low, Real high) {
  using Bits = std::conditional_t<sizeof(F) == 4, uint32_t, uint64_t>;
  const Bits last = bits_as<Bits>(std::numeric_limits<F>::max()), step = last / numbers;
  std::vector<F> found;
  for (Bits turn = 0; turn <= Bits(numbers); ++turn) {
    const F x = bits_as<F>(turn * step + turn * 2654435761u % step);
    for (const F signed_x : {x, -x}) {
      if (signed_x >= low && signed_x <= high) found.push_back(signed_x);
    }
  }
  for (int i = 0; i <= numbers; ++i) {
    const F x = F(low + (high - low) * i / numbers);
    if (std::fabs(high - low) < 1e6L) found.push_back(std::clamp(x, F(low), F(high)));
  }
  return found;
}

// value(x, second) of all x, evaluated in E.
template <class E, class F, class Value>
__attribute__((noinline)) void apply(const F* __restrict x, F second, F* __restrict out,
                                     size_t count, const Value& value) {
#pragma omp simd
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<F>(value(E(x[i]), E(second)));
}

// What a functor sees of a label, and whether it is there, as in csrc/cpu/tile.h.
template <class Functor, class F>
MTLFAST_INLINE bool is_labelled(F y) {
  return Functor::kClassification ? y >= F(0) : y == y;
}
template <class Functor, class E, class F, class K>
MTLFAST_INLINE E label_of(F y, const K& k) {
  const bool absent = Functor::kWide && !is_labelled<Functor>(y);
  return evaluated_label<Functor>(E(absent ? F(0) : y), k);
}

// A functor's values, or gradients, of logits or predictions: the loops of csrc/cpu/tile.h with
// nothing around them.
template <class Functor, class F, class K>
__attribute__((noinline)) void loop_of_values(const F* __restrict x, const F* __restrict y,
                                              const F* __restrict p, F* __restrict out,
                                              size_t count, const K& k) {
  using E = NumberOf<K>;
#pragma omp simd
  for (size_t i = 0; i < count; ++i) {
    const F value = F(Functor::value(E(x[i]), label_of<Functor, E>(y[i], k), E(p[i]), k));
    out[i] = is_labelled<Functor>(y[i]) ? value : F(0);
  }
}
template <class Functor, class F, class K>
__attribute__((noinline)) void loop_of_gradients(const F* __restrict x, const F* __restrict y,
                                                 const F* __restrict p, F* __restrict out,
                                                 size_t count, const K& k) {
  using E = NumberOf<K>;
#pragma omp simd
  for (size_t i = 0; i < count; ++i) {
    const F gradient = F(Functor::grad(E(x[i]), label_of<Functor, E>(y[i], k), E(p[i]), k));
    out[i] = is_labelled<Functor>(y[i]) ? gradient : F(0);
  }
}

}  // namespace mtlfast
