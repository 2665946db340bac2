// The GPU's own instructions, most of them approximate; emulated.h has them on the CPU. Included by
// math.h alone, inside its namespace.

// 2 ulp; results below 2^-126 become 0: without .ftz, rescuing them costs four more instructions.
MTLFAST_INLINE float exp2_approx(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
// 2^-22 off, relative to a result beyond 1.
MTLFAST_INLINE float log2_approx(float x) {
  float log;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(log) : "f"(x));
  return log;
}
// max(a, b), but NaN where one is.
MTLFAST_INLINE float max_or_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
#else
  return a != a || a > b ? a : b;
#endif
}
MTLFAST_INLINE float log_library(float x) { return ::logf(x); }
// a / b to 2 ulp for |b| in [2^-126, 2^126], where the exact one is a subroutine.
MTLFAST_INLINE float divide_approx(float a, float b) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
  return a * inverse;
}
