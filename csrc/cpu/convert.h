// Moving (N, T) operands into and out of small tiles of the compute type F (float or double), so
// that the loss loops see one type. Every loop is compiled for several instruction sets.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "math.h"
#include "pointwise_call.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
// One target alone under the sanitizers, whose instrumentation takes a while to compile.
#if defined(__ELF__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define MTLFAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MTLFAST_CLONES
#endif

namespace mtlfast {

#if defined(__x86_64__)
inline bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2");
  return has;
}
#endif

// Plain integer arithmetic, which vectorises on every instruction set; the stock conversions branch
// on NaN.
template <class F, class T>
MTLFAST_INLINE F widen(T value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return bits_as<float>(static_cast<uint32_t>(value.bits) << 16);
  } else if constexpr (std::is_same_v<T, Half>) {
    constexpr float kRebias = 0x1p112f;
    const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
    const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
    const uint32_t finite = bits_as<uint32_t>(bits_as<float>(magnitude) * kRebias);
    return bits_as<float>(sign | (magnitude < 0x0f800000u ? finite : magnitude | 0x7f800000u));
  } else {
    return static_cast<F>(value);
  }
}

// Round to nearest even; NaN stays NaN.
template <class T>
MTLFAST_INLINE T narrow(float value) {
  const uint32_t bits = bits_as<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  if constexpr (std::is_same_v<T, BFloat16>) {
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>(magnitude > 0x7f800000u ? 0x7fc0u : rounded)};
  } else {
    static_assert(std::is_same_v<T, Half>);
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    return {static_cast<uint16_t>(((bits >> 16) & 0x8000u) |
                                  (magnitude < 0x47800000u ? finite : special))};
  }
}

template <class T, class F>
MTLFAST_CLONES void widen_all(const T* __restrict source, F* __restrict tile, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    tile[i] = widen<F>(source[i]);
  }
}

template <class T, class F>
MTLFAST_CLONES void narrow_all(const F* __restrict tile, T* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = narrow<T>(static_cast<float>(tile[i]));
}

#if defined(__ELF__) && defined(__x86_64__)
// One instruction of F16C instead of the 8 and 12 operations of the loops above; not all compilers
// know its name, but what has AVX2 has it. Overloads, so that plain calls come here.
#define MTLFAST_F16C __attribute__((target("avx,f16c")))
MTLFAST_F16C inline int64_t widen_eights(const Half* source, float* tile, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const auto bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
    _mm256_storeu_ps(tile + i, _mm256_cvtph_ps(bits));
  }
  return i;
}
MTLFAST_F16C inline int64_t narrow_eights(const float* tile, Half* target, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const auto bits = _mm256_cvtps_ph(_mm256_loadu_ps(tile + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), bits);
  }
  return i;
}
inline void widen_all(const Half* source, float* tile, int64_t count) {
  const int64_t done = has_avx2() ? widen_eights(source, tile, count) : 0;
  widen_all<Half, float>(source + done, tile + done, count - done);
}
inline void narrow_all(const float* tile, Half* target, int64_t count) {
  const int64_t done = has_avx2() ? narrow_eights(tile, target, count) : 0;
  narrow_all<Half, float>(tile + done, target + done, count - done);
}
#endif

// Calls visit(F{}) with the compute type.
template <class Visit>
void visit_compute(ScalarType compute, Visit&& visit) {
  if (compute == ScalarType::Double) {
    visit(double{});
  } else {
    visit(float{});
  }
}

// A rectangle of the (N, T) matrix: rows from `row`, columns from `column`.
struct Rectangle {
  int64_t row, rows, column, columns;
  int64_t size() const { return rows * columns; }
};

// Rows of values: `data`, then `stride` elements to the next row; stride 0 repeats the row.
template <class T>
struct Rows {
  T* data;
  int64_t stride;

  T* operator[](int64_t row) const { return data + row * stride; }
};

// The operand's values in the rectangle, row after row: a pointer into the operand itself where
// type and layout allow it, else `tile`, filled.
template <class F>
const F* stage(const Operand& operand, const Rectangle& where, int64_t tasks, F* tile) {
  const F* values = tile;
  visit_storage(operand.data, operand.dtype, [&](auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    data += where.row * operand.row_stride + where.column * operand.column_stride;
    const bool flat_row = operand.column_stride == 1 || where.columns == 1;
    const bool flat =
        flat_row && (where.rows == 1 || (operand.row_stride == tasks && where.columns == tasks));
    if constexpr (std::is_same_v<T, F>) {
      if (flat) {
        values = data;
        return;
      }
    }
    if (flat) return widen_all(data, tile, where.size());
    for (int64_t r = 0; r < where.rows; ++r, data += operand.row_stride, tile += where.columns) {
      if (flat_row) {
        widen_all(data, tile, where.columns);
        continue;
      }
      for (int64_t c = 0; c < where.columns; ++c) {
        tile[c] = widen<F>(data[c * operand.column_stride]);
      }
    }
  });
  return values;
}

// The same as rows of `width` values, which may also lie apart in the operand itself.
template <class F>
Rows<const F> stage_rows(const Operand& operand, const Rectangle& where, int64_t tasks,
                         int64_t width, ScalarType compute, F* tile) {
  if (operand.dtype == compute && operand.column_stride == 1 && width == where.columns) {
    const int64_t first = where.row * operand.row_stride + where.column;
    return {static_cast<const F*>(operand.data) + first, operand.row_stride};
  }
  return {stage(operand, where, tasks, tile), width};
}

// Where a tile of results goes, as rows of `width` values: straight into the output where it has
// the compute type, else through `buffer`, narrowed by store(). Without an output the results stay
// in the buffer.
template <class F>
struct Sink {
  Rows<F> rows;

  Sink(void* output, const PointwiseCall& call, const Rectangle& where, int64_t width, F* buffer)
      : rows{buffer, width}, output_(output), call_(call), where_(where) {
    if (output == nullptr || call.logits.dtype != call.compute) return;
    rows = {static_cast<F*>(output) + where.row * call.tasks + where.column,
            width == where.columns ? call.tasks : width};
  }

  void store() const {
    if (call_.logits.dtype == ScalarType::BFloat16) narrow_rows<BFloat16>();
    if (call_.logits.dtype == ScalarType::Half) narrow_rows<Half>();
  }

 private:
  template <class T>
  void narrow_rows() const {
    T* out = static_cast<T*>(output_) + where_.row * call_.tasks + where_.column;
    const bool flat = where_.columns == call_.tasks;
    const int64_t length = flat ? where_.size() : where_.columns;
    for (int64_t start = 0; start < where_.size(); start += length, out += call_.tasks) {
      narrow_all(rows.data + start, out, length);
    }
  }

  void* output_;
  const PointwiseCall& call_;
  Rectangle where_;
};

}  // namespace mtlfast
