// Targets of V consecutive elements: bytes and numbers, as they were loaded and as they are looked
// at.
#pragma once

#include "vector.cuh"

namespace mtlfast {

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

// Targets as numbers: NaN is missing.
template <int V>
struct Soft {
  float y[V];

  __device__ void miss(int j) { y[j] = kMissing; }
  // `least`: smaller ones, and NaN, are missing.
  __device__ bool present(int j, float least) const { return y[j] >= least; }
  // A byte for each element, 1 where it is present.
  __device__ uint32_t presence(int word, float least) const {
    uint32_t ones = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) ones += present(4 * word + j, least) ? 1u << 8 * j : 0u;
    return ones;
  }
};

// Labels of one byte, of which only 0, 1 and those that are missing are looked at.
template <int V>
struct Hard {
  static constexpr uint32_t kTops = 0x80808080u;
  Bytes<V> bytes;
  uint32_t missing[V / 4];  // the top bit of each byte that is missing

  __device__ Hard(const Bytes<V>& bytes, bool is_signed) : bytes(bytes) {
#pragma unroll
    for (int i = 0; i < V / 4; ++i) missing[i] = is_signed ? bytes.words[i] & kTops : 0u;
  }
  __device__ void miss(int j) { missing[j / 4] |= 0x80u << 8 * (j % 4); }
  __device__ bool present(int j, float) const {
    return (missing[j / 4] & 0x80u << 8 * (j % 4)) == 0;
  }
  // A byte of 0 is a label that is not there.
  __device__ void mask(const Bytes<V>& bytes) {
#pragma unroll
    for (int i = 0; i < V / 4; ++i) {
      const uint32_t low = (bytes.words[i] & ~kTops) + ~kTops;  // top bits where any lower one is
      missing[i] |= ~(low | bytes.words[i]) & kTops;
    }
  }
  __device__ uint32_t presence(int word, float) const { return (~missing[word] & kTops) >> 7; }
  __device__ bool positive(int j) const { return (bytes.words[j / 4] & 1u << 8 * (j % 4)) != 0; }
  // -x where the label is 1.
  __device__ float turned(int j, float x) const {
    const uint32_t sign = bytes.words[j / 4] << (31 - 8 * (j % 4)) & 0x80000000u;
    return bits_as<float>(bits_as<uint32_t>(x) ^ sign);
  }
  // Whether one that is present is neither 0 nor 1.
  __device__ bool any_other() const {
    uint32_t others = 0;
#pragma unroll
    for (int i = 0; i < V / 4; ++i) {
      others |= bytes.words[i] & ~spread(missing[i]) & 0xfefefefeu;
    }
    return others != 0;
  }

 private:
  // Each byte's top bit in all of its bits.
  __device__ static uint32_t spread(uint32_t tops) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, 0, 0xba98;" : "=r"(bytes) : "r"(tops));
    return bytes;
  }
};

// Labels of one byte of which some are neither 0 nor 1, as numbers.
template <int V>
struct Other : Hard<V> {
  float y[V];

  __device__ Other(const Hard<V>& labels, bool is_signed) : Hard<V>(labels) {
    decode_bytes(labels.bytes, is_signed, y);
  }
};

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

  __device__ Soft<V> labels(ScalarType) const {
    Soft<V> labels;
#pragma unroll
    for (int j = 0; j < V; ++j) labels.y[j] = values[j];
    return labels;
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
  __device__ Soft<V> labels(ScalarType dtype) const {
    Soft<V> labels;
    decode_bytes(bytes, dtype == ScalarType::Char, labels.y);
    return labels;
  }
};

}  // namespace mtlfast
