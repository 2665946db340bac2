// Reading and writing V consecutive elements, as one vector where alignment
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

__device__ inline void read_vector(const float* source, float* values) {
  const float4 all = __ldg(reinterpret_cast<const float4*>(source));
  values[0] = all.x, values[1] = all.y, values[2] = all.z, values[3] = all.w;
}

}  // namespace mtlfast
