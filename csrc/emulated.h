// The GPU's approximate instructions on the CPU, in place of instructions.h: the exact result,
// rounded, and as many units in its last place off as the caller chooses, up to what NVIDIA
// documents. Included by math.h alone, inside its namespace.

// In units in the last place; documented are 2, 2 and 1.
struct Errors {
  double exp2 = 0, divide = 0, log = 0;
};
inline Errors errors;

inline float rounded_off_by(double exact, double units) {
  const float rounded = static_cast<float>(exact);
  if (rounded == 0.0f || !(::fabs(exact) < 1e38)) return rounded;
  const double spacing = ::nextafterf(::fabsf(rounded), 3e38f) - ::fabs(double{rounded});
  const auto off = static_cast<float>(exact + units * spacing);
  return ::fabsf(off) < 1.17549435e-38f ? 0.0f : off;
}

inline float exp2_approx(float x) {
  return x == 0.0f ? 1.0f : rounded_off_by(::exp2(double{x}), errors.exp2);
}
inline float log2_approx(float x) {
  if (::fabsf(x) < 1.17549435e-38f) return -HUGE_VALF;  // flushed to 0
  const double exact = ::log2(double{x}), size = ::fabs(exact);
  return static_cast<float>(exact + errors.log * 0x1p-22 * (size > 1 ? size : 1.0));
}
inline float max_or_nan(float a, float b) { return b < a || a != a ? a : b; }
inline float log_library(float x) {
  return x == 1.0f ? 0.0f : rounded_off_by(::log(double{x}), errors.log);
}
inline float divide_approx(float a, float b) {
  if (::fabsf(b) > 0x1p126f && ::fabsf(b) < HUGE_VALF) return 0.0f;
  if (::fabsf(b) < 0x1p-126f) return a * HUGE_VALF;
  return rounded_off_by(double{a} / double{b}, errors.divide);
}
