// The pointwise kernels: what they are called with, and what forward and backward share.
#pragma once

#include "pointwise.h"
#include "reduce.cuh"
#include "vector.cuh"

namespace mtlfast {

// Float sums over more super-rows than this go through double; see Cells.
constexpr int kRun = 64;
// Blocks fold the slots of so few tasks themselves.
constexpr int64_t kFewTasks = 64;
constexpr int kAllRows = std::numeric_limits<int>::max();

constexpr bool is_plain(Path path) { return path == Path::kBytes || path == Path::kFloats; }

// Elements that a thread reads at once: 16 bytes of logits. Where there may be many operands, the
// registers go to them: it reads 8 bytes of 16-bit logits.
template <class Logit, Path kPath>
constexpr int kVector = is_plain(kPath) ? 16 / sizeof(Logit) : 4;

// Super-rows that a warp loads before it computes: 48 to 128 bytes in flight for each thread.
template <class Logit, Path kPath>
constexpr int kUnroll = is_plain(kPath) && sizeof(Logit) == 4 ? 4 : 2;

// Blocks that a multiprocessor must hold: 32, 24 or 16 warps cap the registers of a thread at 64,
// 80 and 128. Without a bound ptxas spilled some kernels to reach 40 warps.
template <class Functor, Path kPath, bool kWhole>
constexpr int kResident = is_plain(kPath)           ? (Functor::kWide && !kWhole ? 3 : 4)
                          : kPath == Path::kGeneral ? 2
                                                    : 3;

struct PointwiseArgs {
  Layout layout;
  const void *logits, *target;
  ScalarType target_dtype;
  bool vector;      // both are aligned: whole vectors may be read
  float least;      // smaller targets, and NaN, are missing
  float keep, add;  // label smoothing: y <- keep y + add
  Params<float> params;
  Strided mask, weight, sample_weight, pos_weight;
  const float* task_weight;  // (T,), or null
};

// What a block found for one of its columns.
struct Partial {
  float loss;
  uint32_t count;
};

struct ForwardArgs : PointwiseArgs {
  Reduction reduction;
  bool weighted_mean;
  int64_t samples;
  void* elements;  // (N, T) for "none", else null
  float *loss, *task_loss, *denominator;
  int64_t* count;
  bool folds;              // blocks fold their slots onto tasks: columns are tasks, else slots
  int columns;             // of a block
  int64_t groups, parts;   // of the blocks: tiles and splits, or one group of all that fold
  Partial* partials;       // (groups, parts, columns)
  float* partial_weights;  // likewise
  Totals* totals;          // one for each group; for each slot where slots are not yet tasks

  __host__ __device__ bool by_task() const { return folds || layout.period <= 1; }
};

struct BackwardArgs : PointwiseArgs {
  Strided upstream;             // (N, T) for "none", else null data
  const float* grad_loss;       // () otherwise, or null
  const float* grad_task_loss;  // (T,), or null
  const float* denominator;
  const int64_t* count;
  bool none;
  void* gradient;
};

// Defined for float, BFloat16 and Half, each in its own file.
template <class Logit>
void run_forward(const Launcher& launch, Loss loss, Path path, const ForwardArgs& args);
template <class Logit>
void run_backward(const Launcher& launch, Loss loss, Path path, const BackwardArgs& args);

template <class Functor>
__device__ __noinline__ float general_value(float x, float y, float p, Params<float> params) {
  return Functor::value(x, y, p, params);
}
template <class Functor>
__device__ __noinline__ float general_grad(float x, float y, float p, Params<float> params) {
  return Functor::grad(x, y, p, params);
}

// The functor with its parameters. kWhole is for bytes, nearly all of which are labels of 0 and 1:
// a larger one is no class label, and goes the general way.
template <class Functor, bool kWhole, bool kShort>
struct Evaluated {
  static constexpr bool kHard = [] {
    if constexpr (kWhole) return !Functor::whole(Params<double>{}, false);
    return false;
  }();
  Params<float, kWhole, kHard, kShort> params;

  __device__ explicit Evaluated(const Params<float>& k) : params{k.smoothing, k.a, k.b, k.c, k.d} {}
  __device__ Params<float> general() const {
    return {params.smoothing, params.a, params.b, params.c, params.d};
  }
  __device__ float value(float x, float y, float p) const {
    if (kHard && y > 1.0f) return general_value<Functor>(x, y, p, general());
    return Functor::value(x, y, p, params);
  }
  __device__ float grad(float x, float y, float p) const {
    if (kHard && y > 1.0f) return general_grad<Functor>(x, y, p, general());
    return Functor::grad(x, y, p, params);
  }
};

// Calls visit(constant of the path).
template <class Visit>
void visit_path(Path path, const Visit& visit) {
  switch (path) {
    case Path::kBytes:
      return visit(std::integral_constant<Path, Path::kBytes>());
    case Path::kFloats:
      return visit(std::integral_constant<Path, Path::kFloats>());
    case Path::kWeightedBytes:
      return visit(std::integral_constant<Path, Path::kWeightedBytes>());
    case Path::kWeightedFloats:
      return visit(std::integral_constant<Path, Path::kWeightedFloats>());
    case Path::kGeneral:
      return visit(std::integral_constant<Path, Path::kGeneral>());
  }
}

// Whether there is a kernel for the whole exponents of such labels, and the call has them.
template <class Functor, Path kPath>
constexpr bool kHasWhole = Functor::kWide && labels_of(kPath) == Labels::kBytes;
template <class Functor>
bool is_whole(const Params<float>& k) {
  const Params<double> params{k.smoothing, k.a, k.b, k.c, k.d};
  return Functor::whole(params, k.smoothing == 0);
}

// Calls visit(Functor{}, constant of the path, constant of whether its exponents are whole).
template <class Visit>
void visit_kernel(Loss loss, Path path, const PointwiseArgs& args, const Visit& visit) {
  visit_loss(loss, [&](auto functor) {
    visit_path(path, [&](auto constant) {
      using Functor = decltype(functor);
      if constexpr (kHasWhole<Functor, constant()>) {
        if (is_whole<Functor>(args.params)) return visit(functor, constant, std::true_type());
      }
      visit(functor, constant, std::false_type());
    });
  });
}

// Logits and targets of kRows super-rows that a warp works on together: of whole vectors alone
// where kFull, else of a single super-row, which may be short or misaligned.
template <class Logit, Path kPath, int kRows, bool kFull>
struct Batch {
  static constexpr int V = kVector<Logit, kPath>;
  static_assert(kFull || kRows == 1);
  Packed<Logit, V> logits[kRows];
  Target<Logit, labels_of(kPath), V> target[kRows];

  // `index`: of the thread's first element in super-row `row`.
  __device__ void read(const PointwiseArgs& args, const Lane<V>& lane, int row, int64_t index,
                       int valid) {
#pragma unroll
    for (int u = 0; u < kRows; ++u, index += kWarps * args.layout.width) {
      const bool vector = kFull || row < lane.full;
      logits[u].read(args.logits, index, valid, vector);
      target[u].read(args.target, args.target_dtype, index, valid, vector);
    }
  }

  // NaN stands for what lies beyond the end.
  __device__ void decode(const PointwiseArgs& args, int u, int valid, float (&x)[V],
                         float (&y)[V]) const {
    logits[u].decode(x);
    target[u].decode(args.target_dtype, y);
    if constexpr (!kFull) {
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = j < valid ? y[j] : kMissing;
    }
  }
};

// Calls step(rows, full, row, index) along a thread's super-rows: batches of kRows whole ones, then
// what is left one by one. Stops after `limit` super-rows, or a few more; goes on from there.
template <int kRows, int V>
struct Walk {
  const Lane<V>& lane;
  int64_t stride, index;
  int row;

  __device__ Walk(const PointwiseArgs& args, const Lane<V>& lane)
      : lane(lane),
        stride(kWarps * args.layout.width),
        index(lane.row * args.layout.width + lane.slot),
        row(lane.row) {}

  __device__ bool done() const { return row >= lane.end; }

  template <class Step>
  __device__ void run(int limit, const Step& step) {
#pragma unroll 1
    for (int rows = 0; rows < limit && !done();) {
      const bool full = row + (kRows - 1) * kWarps < lane.full;
      if (full) {
        step(std::integral_constant<int, kRows>(), std::true_type(), row, index);
      } else {
        step(std::integral_constant<int, 1>(), std::false_type(), row, index);
      }
      const int taken = full ? kRows : 1;
      rows += taken;
      row += taken * kWarps;
      index += taken * stride;
    }
  }
};

// Calls take(j, value) for the elements j < valid of an operand that is not read as vectors.
template <class T, int V, class Take>
__device__ void read_elements(const Strided& operand, const PointwiseArgs& args,
                              const Lane<V>& lane, int row, int valid, const Take& take) {
  const auto* data = static_cast<const T*>(operand.data);
  if (operand.reach == Reach::kRows && args.layout.tasks >= V) {  // of one row or two
    data += (row * args.layout.period + lane.sample) * operand.row_stride;
    const int own = static_cast<int>(min(args.layout.tasks - lane.column, int64_t{V}));
    const T first = valid > 0 ? data[0] : T(),
            second = own < valid ? data[operand.row_stride] : first;
#pragma unroll
    for (int j = 0; j < V; ++j) take(j, j < own ? first : second);
    return;
  }
  Cursor<V> cursor(operand, args.layout, lane, row);
#pragma unroll
  for (int j = 0; j < V; ++j, cursor.next()) {
    if (j < valid) take(j, data[cursor.offset]);
  }
}

// V values of a float operand; undefined beyond `valid`.
template <int V>
__device__ void read_floats(const Strided& operand, const PointwiseArgs& args, const Lane<V>& lane,
                            int row, int64_t index, int valid, float (&values)[V]) {
  if (operand.reach == Reach::kVectors && valid == V) {
#pragma unroll
    for (int j = 0; j < V; j += 4) {
      read_vector(static_cast<const float*>(operand.data) + index + j, values + j);
    }
    return;
  }
  read_elements<float>(operand, args, lane, row, valid,
                       [&](int j, float value) { values[j] = value; });
}

// What plain paths do not have: mask, factors and positive weights. They are read before the loss
// is computed and applied after it, so that the loss hides their latency; those of the columns are
// read once for all rows.
template <int V, bool kPlain>
struct Extras {
  const PointwiseArgs& args;
  const Lane<V>& lane;
  Bytes<V> present;
  float factor[V], of_columns[V], positive[V];

  __device__ Extras(const PointwiseArgs& args, const Lane<V>& lane) : args(args), lane(lane) {
#pragma unroll
    for (int j = 0; j < V; ++j) positive[j] = of_columns[j] = 1;
    if (is(args.weight, Reach::kColumns)) {
      read_floats(args.weight, args, lane, 0, 0, lane.left, of_columns);
    }
    if (is(args.pos_weight, Reach::kColumns)) {
      read_floats(args.pos_weight, args, lane, 0, 0, lane.left, positive);
    }
  }
  __device__ static bool is(const Strided& operand, Reach reach) {
    return operand.data != nullptr && operand.reach == reach;
  }
  __device__ static bool varies(const Strided& operand) {
    return operand.data != nullptr && operand.reach != Reach::kColumns;
  }

  __device__ void read(int row, int64_t index, int valid) {
    if (is(args.mask, Reach::kVectors) && valid == V) {
      present.read(args.mask.data, index, valid, true);
    } else if (args.mask.data != nullptr) {
      present.clear();
      read_elements<uint8_t>(args.mask, args, lane, row, valid,
                             [&](int j, uint8_t byte) { present.set(j, byte); });
    }
    if (varies(args.pos_weight)) {
      read_floats(args.pos_weight, args, lane, row, index, valid, positive);
    }
    read_weight(row, index, valid, factor);
    if (args.sample_weight.data == nullptr) return;
    float of_sample[V];
    read_floats(args.sample_weight, args, lane, row, index, valid, of_sample);
#pragma unroll
    for (int j = 0; j < V; ++j) factor[j] *= of_sample[j];
  }
  // 1 where there is no weight.
  __device__ void read_weight(int row, int64_t index, int valid, float (&values)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = of_columns[j];
    if (varies(args.weight)) read_floats(args.weight, args, lane, row, index, valid, values);
  }

  __device__ float pos_weight(int j) const { return positive[j]; }
  // Missing labels become NaN.
  __device__ void apply_mask(float (&y)[V]) const {
    if (args.mask.data == nullptr) return;
#pragma unroll
    for (int j = 0; j < V; ++j) y[j] = present.any(j) ? y[j] : kMissing;
  }
  __device__ void apply_factor(float (&values)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] *= factor[j];
  }
};
template <int V>
struct Extras<V, true> {
  __device__ Extras(const PointwiseArgs&, const Lane<V>&) {}
  __device__ void read(int, int64_t, int) {}
  __device__ static constexpr float pos_weight(int) { return 1; }
  __device__ void apply_mask(float (&)[V]) const {}
  __device__ void apply_factor(float (&)[V]) const {}
};

}  // namespace mtlfast
