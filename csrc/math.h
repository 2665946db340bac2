// The one home of numerics: exp, log, sigmoid, softplus and pow for float and double, on host and
// device. Floats use polynomials that the compiler vectorises (a libm call per element is 4 times
// slower on the CPU); doubles use the standard library.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// For host code that a loop compiled for several instruction sets must swallow whole.
#define MTLFAST_INLINED __attribute__((always_inline))
#if defined(__CUDACC__)
#define MTLFAST_INLINE __host__ __device__ __forceinline__
#else
#define MTLFAST_INLINE inline MTLFAST_INLINED
#endif

namespace mtlfast {

template <class To, class From>
MTLFAST_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// exp(x) for x <= 0, relative error 1e-7; below -87.3, where float has only subnormals, 1.2e-38.
MTLFAST_INLINE float exp_nonpositive(float x) {
#if defined(__CUDA_ARCH__)
  // Results below 2^-126 become 0; without .ftz, rescuing them costs four more instructions.
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * 1.44269504f));
  return power;
#else
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = x < -87.3f ? -87.3f : x;           // NaN passes
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.3950480e-3f;
  p = p * r + 8.3688824e-3f;
  p = p * r + 4.1666206e-2f;
  p = p * r + 1.6666520e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const auto exponent = static_cast<int32_t>(bits_as<uint32_t>(shifted) << 23);
  return bits_as<float>(bits_as<int32_t>(p) + exponent);
#endif
}
MTLFAST_INLINE double exp_nonpositive(double x) { return ::exp(x); }

// a / b; on the device to 2 ulp for |b| in [2^-126, 2^126], where the exact one is a subroutine.
MTLFAST_INLINE float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);
#else
  return a / b;
#endif
}
MTLFAST_INLINE double divide(double a, double b) { return a / b; }

// log(1 + e) for e in [0, 1], relative error 1e-7 (minimax polynomial of degree 9).
MTLFAST_INLINE float log1p_unit(float e) {
  float p = 5.23269003e-3f;
  p = p * e - 2.95052192e-2f;
  p = p * e + 7.82259175e-2f;
  p = p * e - 1.36632425e-1f;
  p = p * e + 1.91060050e-1f;
  p = p * e - 2.48429817e-1f;
  p = p * e + 3.33190967e-1f;
  p = p * e - 4.99994931e-1f;
  p = p * e + 9.99999970e-1f;
  return p * e;
}
MTLFAST_INLINE double log1p_unit(double e) { return ::log1p(e); }

// max(u, smallest normal float): something to divide by where 0 can only be divided into 0.
template <class F>
MTLFAST_INLINE F positive(F u) {
  constexpr F kSmallest = F(1.17549435e-38f);
  return u < kSmallest ? kSmallest : u;
}

// log(positive(u)), relative error 1e-7. NaN stays NaN.
MTLFAST_INLINE float log_positive(float u) {
  u = positive(u);
#if defined(__CUDA_ARCH__)
  return ::logf(u);
#else
  constexpr int32_t kSqrtHalf = 0x3f3504f3;
  const int32_t steps = (bits_as<int32_t>(u) - kSqrtHalf) >> 23;
  const float n = static_cast<float>(steps);
  float f = bits_as<float>(bits_as<int32_t>(u) - (steps << 23)) - 1.0f;  // in [-.29, .41]
  f += u - u;  // the bits of a NaN look like any number's
  float p = 8.70045280e-2f;
  p = p * f - 1.42674915e-1f;
  p = p * f + 1.49147643e-1f;
  p = p * f - 1.65775840e-1f;
  p = p * f + 1.99630641e-1f;
  p = p * f - 2.50013371e-1f;
  p = p * f + 3.33339107e-1f;
  const float f2 = f * f;
  return n * 0.693359375f + (n * -2.12194440e-4f + (p * f * f2 - 0.5f * f2 + f));
#endif
}
MTLFAST_INLINE double log_positive(double u) { return ::log(positive(u)); }

// u^g for u in [0, 1] and g >= 0, with 0^0 = 1.
template <class F>
MTLFAST_INLINE F pow_unit(F u, F g) {
  const F power = exp_nonpositive(g * log_positive(u));  // no branch: it would not vectorise
  return g == F(0) ? F(1) : (g == F(1) ? u : power);
}

template <class F>
MTLFAST_INLINE F abs(F x) {
  return ::fabs(x);
}
template <>
MTLFAST_INLINE float abs(float x) {
  return bits_as<float>(bits_as<uint32_t>(x) & 0x7fffffffu);
}

// sigmoid(x) and sigmoid(-x), softplus(x) and softplus(-x), all from one exponential: no positive
// number is ever exponentiated and neither of a pair is formed as one minus the other.
template <class F>
struct Logistic {
  F exp_abs;  // exp(-|x|)
  F x;

  MTLFAST_INLINE explicit Logistic(F logit) : exp_abs(exp_nonpositive(-abs(logit))), x(logit) {}

  struct Pair {
    F plus, minus;
  };
  MTLFAST_INLINE Pair sigmoid() const {
    const F larger = divide(F(1), F(1) + exp_abs), smaller = exp_abs * larger;
    return x < F(0) ? Pair{smaller, larger} : Pair{larger, smaller};
  }
  MTLFAST_INLINE Pair softplus() const {
    const F tail = log1p_unit(exp_abs);
    return {tail + (x < F(0) ? F(0) : x), tail + (x < F(0) ? -x : F(0))};
  }
};

}  // namespace mtlfast
