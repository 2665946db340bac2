// Reading and writing V = 16 / sizeof(Logit) consecutive elements, as one vector where alignment
// and the end of the data allow it (`vector`), else one by one.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "layout.cuh"
#include "math.h"

namespace mtlfast {

inline void require_narrow(ScalarType compute) {
  require(compute == ScalarType::Float,
          "the CUDA kernels take float32, bfloat16 and float16; for float64 use "
          "backend='reference'.");
}

// Calls visit(T{}), T being what the kernels are compiled for.
template <class Visit>
void visit_narrow(ScalarType dtype, const Visit& visit) {
  if (dtype == ScalarType::BFloat16) return visit(BFloat16{});
  if (dtype == ScalarType::Half) return visit(Half{});
  visit(float{});
}

inline bool aligned(const void* data, size_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();

__device__ inline float widen(BFloat16 value) {
  return bits_as<float>(static_cast<uint32_t>(value.bits) << 16);
}
__device__ inline float widen(Half value) { return __half2float(bits_as<__half>(value.bits)); }
template <class T>
__device__ float widen(T value) {
  return static_cast<float>(value);
}

// To nearest even.
template <class T>
__device__ T narrow(float value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return bits_as<T>(__float2bfloat16_rn(value));
  } else if constexpr (std::is_same_v<T, Half>) {
    return bits_as<T>(__float2half_rn(value));
  } else {
    return value;
  }
}

// kWords words, read or written at once where `vector` says so.
template <int kWords>
__device__ inline void read_words(const void* source, uint32_t (&words)[kWords]) {
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
  if constexpr (kWords == 4) {
    const uint4 all = __ldg(static_cast<const uint4*>(source));
    words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
  } else if constexpr (kWords == 2) {
    const uint2 all = __ldg(static_cast<const uint2*>(source));
    words[0] = all.x, words[1] = all.y;
  } else {
    words[0] = __ldg(static_cast<const uint32_t*>(source));
  }
}

// V elements of type Logit.
template <class Logit, int V>
struct Vector {
  static constexpr int kWords = V * sizeof(Logit) / 4;
  uint32_t words[kWords];

  __device__ void read(const void* data, int64_t index, int valid, bool vector) {
    const auto* source = static_cast<const Logit*>(data) + index;
    if (vector) return read_words(source, words);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = 0;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (j >= valid) continue;
      if constexpr (kWords == V) {
        words[j] = bits_as<uint32_t>(source[j]);
      } else {
        words[j / 2] |= static_cast<uint32_t>(source[j].bits) << 16 * (j % 2);
      }
    }
  }

  __device__ void write(void* data, int64_t index, int valid, bool vector) const {
    auto* target = static_cast<Logit*>(data) + index;
    if (vector) {  // intrinsics: nvcc splits plain stores to an address that it had to look up
      if constexpr (kWords == 4) {
        const uint4 all = make_uint4(words[0], words[1], words[2], words[3]);
        __stwb(reinterpret_cast<uint4*>(target), all);
      } else {
        __stwb(reinterpret_cast<uint2*>(target), make_uint2(words[0], words[1]));
      }
      return;
    }
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (j >= valid) continue;
      if constexpr (kWords == V) {
        target[j] = bits_as<float>(words[j]);
      } else {
        target[j].bits = static_cast<uint16_t>(words[j / 2] >> 16 * (j % 2));
      }
    }
  }

  // The compiler no longer knows what the words are.
  __device__ void hide() {
#pragma unroll
    for (uint32_t& word : words) asm volatile("" : "+r"(word));
  }

  __device__ void decode(float (&values)[V]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kWords == V) {
        values[i] = bits_as<float>(words[i]);
      } else if constexpr (std::is_same_v<Logit, Half>) {
        const float2 pair = __half22float2(bits_as<__half2>(words[i]));
        values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
      } else {
        values[2 * i] = bits_as<float>(words[i] << 16);
        values[2 * i + 1] = bits_as<float>(words[i] & 0xffff0000u);
      }
    }
  }

  // Rounds to nearest even, two at a time.
  __device__ void encode(const float (&values)[V]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (kWords == V) {
        words[i] = bits_as<uint32_t>(values[i]);
      } else if constexpr (std::is_same_v<Logit, Half>) {
        words[i] = bits_as<uint32_t>(__floats2half2_rn(values[2 * i], values[2 * i + 1]));
      } else {
        words[i] = bits_as<uint32_t>(__floats2bfloat162_rn(values[2 * i], values[2 * i + 1]));
      }
    }
  }
};

// V bytes, four to a word.
template <int V>
struct Bytes {
  uint32_t words[V / 4];

  __device__ void read(const void* data, int64_t index, int valid, bool vector) {
    const auto* source = static_cast<const uint8_t*>(data) + index;
    if (vector) return read_words(source, words);
    clear();
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (j < valid) set(j, source[j]);
    }
  }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < V / 4; ++i) words[i] = 0;
  }
  __device__ void set(int j, uint8_t byte) {
    words[j / 4] |= static_cast<uint32_t>(byte) << 8 * (j % 4);
  }
  __device__ bool any(int j) const { return (words[j / 4] & (0xffu << 8 * (j % 4))) != 0; }
};

// 0x4b000000 + byte is the float 2^23 + byte: a permutation and a subtraction, at the full rate
// that conversions don't have. Signed bytes are shifted by 128 first.
template <int V>
__device__ void decode_bytes(const Bytes<V>& bytes, bool is_signed, float (&values)[V]) {
  const uint32_t flip = is_signed ? 0x80808080u : 0u;
  const float bias = is_signed ? 8388736.0f : 8388608.0f;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const uint32_t word = bytes.words[j / 4] ^ flip;
    values[j] = bits_as<float>(__byte_perm(word, 0x4b000000u, 0x7540 + j % 4)) - bias;
  }
}

__device__ inline void read_vector(const float* source, float* values) {
  const float4 all = __ldg(reinterpret_cast<const float4*>(source));
  values[0] = all.x, values[1] = all.y, values[2] = all.z, values[3] = all.w;
}

// One byte each: int8, uint8, bool.
__host__ __device__ inline bool is_byte(ScalarType dtype) {
  return dtype == ScalarType::Char || dtype == ScalarType::Byte || dtype == ScalarType::Bool;
}

// How a kernel reads: byte targets or float32 targets, alone or with a mask, positive weights of
// the columns and weights, at most one of which varies along columns; or any operands, with targets
// of any type, and where each element is asked for.
enum class Path { kBytes, kFloats, kWeightedBytes, kWeightedFloats, kGeneral };

enum class Labels { kBytes, kFloats, kAny };
constexpr Labels labels_of(Path path) {
  if (path == Path::kBytes || path == Path::kWeightedBytes) return Labels::kBytes;
  if (path == Path::kFloats || path == Path::kWeightedFloats) return Labels::kFloats;
  return Labels::kAny;
}

// The targets of V consecutive elements. `vector`: all V are there, and aligned.
template <class Logit, Labels kLabels, int V>
struct Target {
  float values[V];

  __device__ void read(const void* data, ScalarType dtype, int64_t index, int valid, bool vector) {
    if (vector && (kLabels == Labels::kFloats || dtype == ScalarType::Float)) {
#pragma unroll
      for (int j = 0; j < V; j += 4) {
        read_vector(static_cast<const float*>(data) + index + j, values + j);
      }
      return;
    }
    if constexpr (kLabels == Labels::kFloats) {
      const auto* source = static_cast<const float*>(data) + index;
#pragma unroll
      for (int j = 0; j < V; ++j) values[j] = j < valid ? source[j] : kMissing;
    } else if (vector && is_byte(dtype)) {
      Bytes<V> bytes;
      bytes.read(data, index, valid, true);
      decode_bytes(bytes, dtype == ScalarType::Char, values);
    } else if (sizeof(Logit) == 2 && vector && dtype == ScalarType::BFloat16) {
      read_packed<BFloat16>(data, index, valid);
    } else if (sizeof(Logit) == 2 && vector && dtype == ScalarType::Half) {
      read_packed<Half>(data, index, valid);
    } else {
      visit_storage(data, dtype, [&](const auto* source) {
#pragma unroll
        for (int j = 0; j < V; ++j) values[j] = j < valid ? widen(source[index + j]) : kMissing;
      });
    }
  }

  __device__ void decode(ScalarType, float (&out)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = values[j];
  }

 private:
  template <class T>
  __device__ void read_packed(const void* data, int64_t index, int valid) {
    Vector<T, V> packed;
    packed.read(data, index, valid, true);
    packed.decode(values);
  }
};

template <class Logit, int V>
struct Target<Logit, Labels::kBytes, V> {
  Bytes<V> bytes;

  __device__ void read(const void* data, ScalarType, int64_t index, int valid, bool vector) {
    bytes.read(data, index, valid, vector);
  }
  __device__ void decode(ScalarType dtype, float (&out)[V]) const {
    decode_bytes(bytes, dtype == ScalarType::Char, out);
  }
};

}  // namespace mtlfast
