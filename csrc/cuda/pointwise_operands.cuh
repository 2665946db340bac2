// What forward and backward share: how a thread reads what it has beside logits and targets.
#pragma once

#include "pointwise.cuh"

namespace mtlfast {

// Whether an operand varies along columns: not the same in every row.
__device__ inline bool varies(const Strided& operand) {
  return operand.data != nullptr && operand.reach != Reach::kColumns;
}

// What an operand has for a thread's V elements of one super-row, as it was loaded: V values, or
// where it goes by rows (Reach::kRows) those of the one row, or the two, that the elements are of.
// Nothing is computed from them before they are asked for, so that all loads are on their way.
template <int V, bool kFull>
struct Loaded {
  static_assert(V == 4);
  float values[V];

  // `index`: of the first element.
  __device__ void read(const Strided& operand, const PointwiseArgs& args, const Lane<V>& lane,
                       int row, int64_t index, int valid) {
    const auto* data = static_cast<const float*>(operand.data);
    if (data == nullptr) return;
    if (kFull && operand.reach == Reach::kRows) {
      data += row * operand.step + lane.sample * operand.row_stride;
      values[0] = data[0];
      if (lane.own < V) values[1] = data[operand.row_stride];
    } else if (kFull && operand.reach == Reach::kVectors) {
      read_vector(data + index, values);
    } else {
      read_elements(operand, args, lane, row, valid);
    }
  }
  __device__ void read_elements(const Strided& operand, const PointwiseArgs& args,
                                const Lane<V>& lane, int row, int valid) {
    Cursor<V> cursor(operand, args.layout, lane, row);
#pragma unroll
    for (int j = 0; j < V; ++j, cursor.next()) {
      if (j < valid) values[j] = static_cast<const float*>(operand.data)[cursor.offset];
    }
  }
  // Calls take(j, value) for the V elements; undefined beyond the end.
  template <class Take>
  __device__ void each(const Strided& operand, const Lane<V>& lane, const Take& take) const {
    if (kFull && operand.reach == Reach::kRows) {
#pragma unroll
      for (int j = 0; j < V; ++j) take(j, j < lane.own ? values[0] : values[1]);
    } else {
#pragma unroll
      for (int j = 0; j < V; ++j) take(j, values[j]);
    }
  }
};

// The same of a mask, whose bytes stay together.
template <int V, bool kFull>
struct LoadedMask {
  Bytes<V> bytes;   // where it goes by rows, of the one row
  uint32_t second;  // and of the other

  __device__ void read(const Strided& mask, const PointwiseArgs& args, const Lane<V>& lane, int row,
                       int64_t index, int valid) {
    const auto* data = static_cast<const uint8_t*>(mask.data);
    if (!varies(mask)) return;
    if (kFull && mask.reach == Reach::kRows) {
      data += row * mask.step + lane.sample * mask.row_stride;
      bytes.words[0] = data[0];
      if (lane.own < V) second = data[mask.row_stride];
    } else if (kFull && mask.reach == Reach::kVectors) {
      bytes.read(data, index, valid, true);
    } else {
      read_elements(mask, args, lane, row, valid);
    }
  }
  __device__ void read_elements(const Strided& mask, const PointwiseArgs& args, const Lane<V>& lane,
                                int row, int valid) {
    Cursor<V> cursor(mask, args.layout, lane, row);
    bytes.clear();
#pragma unroll
    for (int j = 0; j < V; ++j, cursor.next()) {
      if (j < valid) bytes.set(j, static_cast<const uint8_t*>(mask.data)[cursor.offset]);
    }
  }
  template <class Take>
  __device__ void each(const Strided& mask, const Lane<V>& lane, const Take& take) const {
    if (kFull && mask.reach == Reach::kRows) {
#pragma unroll
      for (int j = 0; j < V; ++j) take(j, (j < lane.own ? bytes.words[0] : second) != 0);
    } else {
#pragma unroll
      for (int j = 0; j < V; ++j) take(j, bytes.any(j));
    }
  }
};

// What is the same in every super-row of a thread: of operands that do not vary along a column.
template <int V, bool kPlain>
struct Columns {
  float weight[V], positive[V];
  LoadedMask<V, false> mask;

  __device__ Columns(const PointwiseArgs& args, const Lane<V>& lane) {
    read(args.weight, args, lane, weight);
    read(args.pos_weight, args, lane, positive);
    if (args.mask.data != nullptr && !varies(args.mask)) {
      mask.read_elements(args.mask, args, lane, 0, lane.left);
    }
  }
  __device__ static void read(const Strided& operand, const PointwiseArgs& args,
                              const Lane<V>& lane, float (&values)[V]) {
    Loaded<V, false> loaded;
    const bool given = operand.data != nullptr && !varies(operand);
    if (given) loaded.read_elements(operand, args, lane, 0, lane.left);
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = given ? loaded.values[j] : 1.0f;
  }
};
template <int V>
struct Columns<V, true> {
  __device__ Columns(const PointwiseArgs&, const Lane<V>&) {}
};

// What plain paths do not have, of one super-row: mask, weights and positive weights. Of the
// weights and positive weights at most one varies along columns on the weighted paths:
// args.varying.
template <int V, Path kPath, bool kFull>
struct Extras {
  static constexpr bool kPlain = is_plain(kPath), kGeneral = kPath == Path::kGeneral;
  struct None {};
  using Values = Loaded<V, kFull>;
  std::conditional_t<kPlain, None, LoadedMask<V, kFull>> mask;
  std::conditional_t<kPlain, None, Values> varying;  // general: the weight
  std::conditional_t<kGeneral, Values, None> sample, positive;

  __device__ void read(const PointwiseArgs& args, const Lane<V>& lane, int row, int64_t index,
                       int valid) {
    if constexpr (!kPlain) {
      mask.read(args.mask, args, lane, row, index, valid);
      const Strided& operand = kGeneral ? args.weight : args.varying;
      if (varies(operand)) varying.read(operand, args, lane, row, index, valid);
    }
    if constexpr (kGeneral) {
      sample.read(args.sample_weight, args, lane, row, index, valid);
      if (varies(args.pos_weight)) {
        positive.read(args.pos_weight, args, lane, row, index, valid);
      }
    }
  }
  // Masked labels are missing.
  template <class Labels>
  __device__ void apply_mask(const PointwiseArgs& args, const Lane<V>& lane,
                             const Columns<V, kPlain>& columns, Labels& labels) const {
    if constexpr (!kPlain) {
      if (args.mask.data == nullptr) return;
      const auto keep = [&](int j, bool present) {
        if (!present) labels.miss(j);
      };
      if constexpr (kFull && std::is_same_v<Labels, Hard<V>>) {
        if (args.mask.reach == Reach::kVectors) return labels.mask(mask.bytes);
      }
      varies(args.mask) ? mask.each(args.mask, lane, keep)
                        : columns.mask.each(args.mask, lane, keep);
    }
  }
  // 1 where there is no weight.
  __device__ void get_weight(const PointwiseArgs& args, const Lane<V>& lane,
                             const Columns<V, false>& columns, float (&values)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = columns.weight[j];
    if (varies(args.weight)) {
      varying.each(args.weight, lane, [&](int j, float value) { values[j] = value; });
    }
  }
  __device__ void apply_weights(const PointwiseArgs& args, const Lane<V>& lane,
                                const Columns<V, kPlain>& columns, float (&values)[V]) const {
    if constexpr (!kPlain) {
      const auto multiply = [&](int j, float value) { values[j] *= value; };
#pragma unroll
      for (int j = 0; j < V; ++j) multiply(j, columns.weight[j]);
      const Strided& operand = kGeneral ? args.weight : args.varying;
      if (varies(operand)) varying.each(operand, lane, multiply);
      if constexpr (kGeneral) {
        if (args.sample_weight.data != nullptr) sample.each(args.sample_weight, lane, multiply);
      }
    }
  }
  __device__ void get_positive(const PointwiseArgs& args, const Lane<V>& lane,
                               const Columns<V, kPlain>& columns, float (&values)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      values[j] = 1;
      if constexpr (!kPlain) values[j] = columns.positive[j];
    }
    if constexpr (kGeneral) {
      if (varies(args.pos_weight)) {
        positive.each(args.pos_weight, lane, [&](int j, float value) { values[j] = value; });
      }
    }
  }
};

}  // namespace mtlfast
