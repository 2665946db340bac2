// The one home of numerics, with powers.h and logistic.h: exp and log for float and double, on host
// and device, by minimax polynomials that the compiler vectorises: a libm call per element is 4
// times slower on the CPU. The device uses its own instructions where they are good enough.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

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

// The polynomial with these coefficients, from the highest power down.
template <class F, class... Rest>
MTLFAST_INLINE F horner(F x, F highest, Rest... rest) {
  F p = highest;
  ((p = p * x + rest), ...);
  return p;
}

#if defined(__CUDA_ARCH__)
#define MTLFAST_GPU
#include "instructions.h"
#elif defined(MTLFAST_EMULATED_GPU)
#define MTLFAST_GPU
#include "emulated.h"
#endif

template <class F>
MTLFAST_INLINE F select(bool condition, F yes, F no) {
  return condition ? yes : no;
}

// a b + c, on the device with one rounding; on the CPU where its instructions have that.
MTLFAST_INLINE float multiply_add(float a, float b, float c) {
#if defined(MTLFAST_GPU)
  return ::fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// max(x, least), but NaN where x is.
template <class F>
MTLFAST_INLINE F at_least(F x, F least) {
  return select(x < least, least, x);
}
#if defined(MTLFAST_GPU)
template <>
MTLFAST_INLINE float at_least(float x, float least) {
  return max_or_nan(x, least);
}
#endif

// exp(x) for x <= 0, relative error 1e-7; the smallest normal number where exp(x) is below it.
MTLFAST_INLINE float exp_rounded(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  // 1.5 * 2^23 + 127: adding it rounds to an integer and leaves 2^n's exponent bits below.
  constexpr float kRound = 12583039.0f;
  x = x < -87.3f ? -87.3f : x;  // NaN passes
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  const float q = horner(r, 1.3950480e-3f, 8.3688824e-3f, 4.1666206e-2f, 1.6666520e-1f, 0.5f);
  const float p = q * r * r + r + 1.0f;
  return p * bits_as<float>(bits_as<uint32_t>(shifted) << 23);  // a product, which NaN passes
}

// The same; on the device to 5e-7 in 5 instructions: what x log2(e) is rounded by becomes a factor.
MTLFAST_INLINE float exp_compensated(float x) {
#if defined(MTLFAST_GPU)
  x = at_least(x, -87.3f);
  const float product = x * 1.44269504f, power = exp2_approx(product);
  return ::fmaf(power, ::fmaf(product, -0.693147181f, x), power);
#else
  return exp_rounded(x);
#endif
}

// The same; on the device to |x| ulp, in two instructions.
MTLFAST_INLINE float exp_nonpositive(float x) {
#if defined(MTLFAST_GPU)
  return exp2_approx(x * 1.44269504f);
#else
  return exp_rounded(x);
#endif
}

// exp(x) for x <= 0 as 2^n (1 + r + r^2 q(r)), the polynomial q by its coefficients.
template <class... Coefficients>
MTLFAST_INLINE double exp_by(double x, Coefficients... q) {
  constexpr double kLog2e = 1.4426950408889634, kLn2High = 6.93147180369123816490e-01,
                   kLn2Low = 1.90821492927058770002e-10;
  constexpr double kRound = 6755399441056767.0;  // 1.5 * 2^52 + 1023
  x = x < -708.0 ? -708.0 : x;
  const double shifted = x * kLog2e + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;
  const double p = horner(r, q...) * r * r + r + 1.0;
  return p * bits_as<double>(bits_as<uint64_t>(shifted) << 52);
}
MTLFAST_INLINE double exp_nonpositive(double x) {
  return exp_by(x, 2.5117838029189842e-08, 2.763126557651855e-07, 2.7557216370685137e-06,
                2.4801489980931837e-05, 1.9841269917309236e-04, 1.3888888946981433e-03,
                8.333333333307238e-03, 4.1666666666515535e-02, 1.66666666666667e-01,
                5.000000000000012e-01);
}

template <class F>
MTLFAST_INLINE F exp_rounded(F x) {
  return exp_nonpositive(x);
}
template <class F>
MTLFAST_INLINE F exp_compensated(F x) {
  return exp_nonpositive(x);
}

MTLFAST_INLINE float divide(float a, float b) {
#if defined(MTLFAST_GPU)
  return divide_approx(a, b);
#else
  return a / b;
#endif
}
MTLFAST_INLINE double divide(double a, double b) { return a / b; }

// log(1 + e) for e in [0, 1], relative error 3.8e-7, and log 2 at 1.
MTLFAST_INLINE float log1p_unit(float e) {
  return horner(e, -8.3844969e-3f, 4.36198749e-2f, -1.07146315e-1f, 1.77176371e-1f, -2.44898245e-1f,
                3.32755208e-1f, -4.99975055e-1f, 9.99999821e-1f) *
         e;
}
MTLFAST_INLINE double log1p_unit(double e) {
  const double p = horner(e, -1.641876007651844e-05, 1.9751112132494622e-04, -1.129966905506502e-03,
                          4.109960222783844e-03, -1.0744166230929164e-02, 2.1708412358949505e-02,
                          -3.575848939282319e-02, 5.0281065739515934e-02, -6.302999175171449e-02,
                          7.336864550053895e-02, -8.210574559993995e-02, 9.056732300257996e-02,
                          -9.992437914811611e-02, 1.1109804421418266e-01, -1.2499827593504728e-01,
                          1.4285697425697994e-01, -1.6666665493321184e-01, 1.9999999945159086e-01,
                          -2.499999999842299e-01, 3.333333333330922e-01, -4.9999999999999856e-01);
  return p * e * e + e;
}

// The same; where kShort, as exact as 16-bit results show.
template <bool kShort, class F>
MTLFAST_INLINE F log1p_unit(F e) {
  if constexpr (kShort && std::is_same_v<F, float>) {  // relative error 1.4e-6
    return horner(e, 1.38133233e-2f, -6.54931441e-2f, 1.48286298e-1f, -2.34596744e-1f,
                  3.31001401e-1f, -4.99862581e-1f, 9.99998629e-1f) *
           e;
  }
  return log1p_unit(e);
}

// max(u, smallest normal float): something to divide by where 0 can only be divided into 0.
template <class F>
MTLFAST_INLINE F positive(F u) {
  return at_least(u, F(1.17549435e-38f));
}

// u, a positive normal number, as 2^n times what log1p's series takes; NaN stays NaN.
struct Binary {
  float n, log;

  MTLFAST_INLINE explicit Binary(float u) {
    constexpr uint32_t kSqrtHalf = 0x3f3504f3u;
    const int32_t steps = static_cast<int32_t>(bits_as<uint32_t>(u) - kSqrtHalf) >> 23;
    n = static_cast<float>(steps);
    const uint32_t scaled = bits_as<uint32_t>(u) - (static_cast<uint32_t>(steps) << 23);
    float f = bits_as<float>(scaled) - 1.0f;  // in [-.29, .41]
    f += u - u;                               // the bits of a NaN look like any number's
    const float f2 = f * f;
    const float p = horner(f, 8.70045280e-2f, -1.42674915e-1f, 1.49147643e-1f, -1.65775840e-1f,
                           1.99630641e-1f, -2.50013371e-1f, 3.33339107e-1f);
    log = p * f * f2 - 0.5f * f2 + f;
  }
};

// log(positive(u)), relative error 1e-7. NaN stays NaN.
MTLFAST_INLINE float log_positive(float u) {
  u = positive(u);
#if defined(MTLFAST_GPU)
  return log_library(u);
#else
  const Binary binary(u);
  return binary.n * 0.693359375f + (binary.n * -2.12194440e-4f + binary.log);
#endif
}

// log(positive(u)) as n log(2) + 2 atanh(s), whose series in z = s^2 is s (2 + z q(z)).
template <class... Coefficients>
MTLFAST_INLINE double log_by(double u, Coefficients... q) {
  constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  u = positive(u);
  const uint64_t steps = (bits_as<uint64_t>(u) - kSqrtHalf) & ~((uint64_t{1} << 52) - 1);
  const double f = bits_as<double>(bits_as<uint64_t>(u) - steps) - 1.0 + (u - u);
  // The exponent as a double, without an int64 conversion, which AVX2 lacks.
  constexpr double kShift = 4503599627370496.0;  // 2^52
  const uint64_t biased = (steps + (uint64_t{1023} << 52)) >> 52;
  const double n = bits_as<double>(biased | bits_as<uint64_t>(kShift)) - (kShift + 1023.0);
  const double s = f / (2.0 + f), z = s * s;
  const double tail = n * 1.90821492927058770002e-10 + (horner(z, q...) * z * s + 2.0 * s);
  return n * 6.93147180369123816490e-01 + tail;
}
MTLFAST_INLINE double log_positive(double u) {
  return log_by(u, 1.4796624529567967e-01, 1.5313986756847306e-01, 1.818356667053636e-01,
                2.2222198531091225e-01, 2.857142874276665e-01, 3.999999999941312e-01,
                6.666666666666735e-01);
}

// log(max(hit, least)), in the digits of whichever is small: `hit` or `miss`, which is 1 - hit.
template <class F>
MTLFAST_INLINE F log_hit(F hit, F miss, F least) {
  const bool floored = hit < least;
  const F lost = (F(1) - hit) - miss;  // what rounding took from a hit of nearly 1
  return log_positive(select(floored, least, hit)) + select(floored, F(0), lost);
}
#if defined(MTLFAST_GPU)
// By log2, or where a miss is small as -2 atanh(miss / (2 - miss)).
template <>
MTLFAST_INLINE float log_hit(float hit, float miss, float least) {
  const bool floored = hit < least;
  const float all = select(floored, least, hit), rest = select(floored, 1.0f - least, miss);
  const float s = divide(rest, 2.0f - rest), z = s * s;
  const float tail =
      horner(z, 0.11619509f, 0.10851662f, 0.14296291f, 0.19999851f, 0.33333334f, 1.0f);
  return select(all < 0.5f, 0.693147181f * log2_approx(positive(all)), -2.0f * s * tail);
}
#endif

// -log(max(hit, least)), 0 where the hit is more than all. `inverse`: of max(hit, least), whose
// log2 the device takes, to 2^-21.5, but for a small miss a series.
MTLFAST_INLINE float minus_log_hit(float hit, float miss, float least, float inverse) {
#if defined(MTLFAST_GPU)
  const float odds = miss * inverse;
  const float tail =
      horner(odds, -2.13897601e-1f, 3.31163526e-1f, -4.99959350e-1f, 9.99999881e-1f) * odds;
  return select(odds > 0.1f, 0.693147181f * log2_approx(inverse), tail);
#else
  return select(miss <= 0.0f, 0.0f, -log_hit(hit, miss, least));
#endif
}

// x, an infinite one as a number so large that it makes no difference: 0 times it is 0.
template <class F>
MTLFAST_INLINE F bounded(F x) {
  constexpr F kLarge = F(1e30f);
  return at_least(-at_least(-x, -kLarge), -kLarge);
}

template <class F>
MTLFAST_INLINE F abs(F x) {
  return ::fabs(x);
}
template <>
MTLFAST_INLINE float abs(float x) {
#if defined(MTLFAST_GPU)
  return ::fabsf(x);  // no instruction of its own
#else
  return bits_as<float>(bits_as<uint32_t>(x) & 0x7fffffffu);
#endif
}

}  // namespace mtlfast
