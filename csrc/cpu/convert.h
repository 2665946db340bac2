// Moving (N, T) operands into and out of small tiles of the compute type F (float or double), so
// that the loss loops see one type. Every loop is compiled for several instruction sets.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "checks.h"
#include "math.h"

#if defined(__ELF__) && defined(__x86_64__)
#define MTLFAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MTLFAST_CLONES
#endif

namespace mtlfast {

// 16-bit floats by their bits: the conversions are plain integer arithmetic, which vectorises on
// every instruction set; the stock ones branch on NaN.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

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
MTLFAST_CLONES void load(const T* __restrict source, F* __restrict tile, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    tile[i] = widen<F>(source[i]);
  }
}

template <class T, class F>
MTLFAST_CLONES void narrow_all(const F* __restrict tile, T* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = narrow<T>(static_cast<float>(tile[i]));
}

// Calls visit(pointer of the storage type).
template <class Visit>
void visit_storage(const void* data, ScalarType dtype, Visit&& visit) {
  switch (dtype) {
    case ScalarType::Float:
      return visit(static_cast<const float*>(data));
    case ScalarType::Double:
      return visit(static_cast<const double*>(data));
    case ScalarType::BFloat16:
      return visit(static_cast<const BFloat16*>(data));
    case ScalarType::Half:
      return visit(static_cast<const Half*>(data));
    case ScalarType::Char:
      return visit(static_cast<const int8_t*>(data));
    case ScalarType::Bool:
    case ScalarType::Byte:
      return visit(static_cast<const uint8_t*>(data));
    case ScalarType::Short:
      return visit(static_cast<const int16_t*>(data));
    case ScalarType::Int:
      return visit(static_cast<const int32_t*>(data));
    case ScalarType::Long:
      return visit(static_cast<const int64_t*>(data));
    default:
      require(false, "no kernel for this dtype of an operand.");
  }
}

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

// The operand's values in the rectangle, row after row: a pointer into the operand itself where
// type and layout allow it, else `tile`, filled.
template <class F>
const F* stage(const Operand& operand, const Rectangle& where, int64_t tasks, F* tile) {
  const F* values = tile;
  visit_storage(operand.data, operand.dtype, [&](auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    data += where.row * operand.row_stride + where.column * operand.column_stride;
    const bool flat = (operand.column_stride == 1 || where.columns == 1) &&
                      (where.rows == 1 || (operand.row_stride == tasks && where.columns == tasks));
    if constexpr (std::is_same_v<T, F>) {
      if (flat) {
        values = data;
        return;
      }
    }
    if (flat) return load(data, tile, where.size());
    for (int64_t r = 0; r < where.rows; ++r) {
      for (int64_t c = 0; c < where.columns; ++c) {
        const T& value = data[r * operand.row_stride + c * operand.column_stride];
        tile[r * where.columns + c] = widen<F>(value);
      }
    }
  });
  return values;
}

// Where a tile of results goes: straight into the output where it has the compute type, else
// through `buffer`, narrowed by store(). Without an output the results stay in the buffer.
template <class F>
struct Sink {
  F* tile;

  Sink(void* output, const PointwiseCall& call, const Rectangle& where, F* buffer)
      : tile(buffer),
        output_(output),
        dtype_(call.logits.dtype),
        offset_(where.row * call.tasks + where.column),
        size_(where.size()) {
    if (output != nullptr && dtype_ == call.compute) tile = static_cast<F*>(output) + offset_;
  }

  void store() const {
    if (dtype_ == ScalarType::BFloat16) {
      narrow_all(tile, static_cast<BFloat16*>(output_) + offset_, size_);
    } else if (dtype_ == ScalarType::Half) {
      narrow_all(tile, static_cast<Half*>(output_) + offset_, size_);
    }
  }

 private:
  void* output_;
  ScalarType dtype_;
  int64_t offset_, size_;
};

}  // namespace mtlfast
