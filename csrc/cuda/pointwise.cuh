// The pointwise kernels: what they are called with, and which there are.
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

// Super-rows that a warp loads before it computes: 48 to 160 bytes in flight for each thread, less
// where there may be any operands.
template <class Logit, Path kPath>
constexpr int kUnroll = kPath == Path::kGeneral                  ? 1
                        : !is_plain(kPath) || sizeof(Logit) == 4 ? 4
                                                                 : 2;
// Blocks that a multiprocessor must hold: 32, 24 or 16 warps cap the registers of a thread at 64,
// 80 and 128. Without a bound ptxas spilled some kernels to reach 40 warps.
template <class Functor, class Logit, Path kPath, bool kWhole>
constexpr int kResident = !is_plain(kPath)                                    ? 2
                          : !Functor::kWide || (kWhole && sizeof(Logit) == 4) ? 4
                                                                              : 3;

struct PointwiseArgs {
  Layout layout;
  const void *logits, *target;
  ScalarType target_dtype;
  bool vector;      // both are aligned: whole vectors may be read
  float least;      // smaller targets, and NaN, are missing
  float keep, add;  // label smoothing: y <- keep y + add
  Packed<float> params;
  Strided mask, weight, sample_weight, pos_weight;
  Strided varying;  // on weighted paths: the weight or the sample_weight that varies along columns
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
  Partial* partials;       // (groups, columns, parts)
  float* partial_weights;  // likewise
  Totals* totals;          // of the slots, where they are not yet tasks
  Scalars* scalars;        // of the groups, where they are

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
__device__ __noinline__ float general_value(float x, float y, float p,
                                            Params<Functor, float> params) {
  return Functor::value(x, y, p, params);
}
template <class Functor>
__device__ __noinline__ float general_grad(float x, float y, float p,
                                           Params<Functor, float> params) {
  return Functor::grad(x, y, p, params);
}

// The functor with its parameters. kWhole is for bytes, nearly all of which are labels of 0 and 1:
// where one is larger, which no class label is, its neighbours go the general way with it.
template <class Functor, bool kWhole, bool kShort>
struct Evaluated {
  Params<Functor, float, kWhole, kWhole, kShort> params;

  __device__ explicit Evaluated(const Packed<float>& given) : params(given) {}
  __device__ Params<Functor, float> general() const { return Params<Functor, float>(params); }
  // Of V elements; in place of x.
  template <int V>
  __device__ void value(float (&x)[V], const float (&y)[V], const float (&p)[V]) const {
    each(
        x, y, p, [&](auto... of) { return general_value<Functor>(of..., general()); },
        [&](auto... of) { return Functor::value(of..., params); });
  }
  template <int V>
  __device__ void grad(float (&x)[V], const float (&y)[V], const float (&p)[V]) const {
    each(
        x, y, p, [&](auto... of) { return general_grad<Functor>(of..., general()); },
        [&](auto... of) { return Functor::grad(of..., params); });
  }

 private:
  template <int V, class General, class Usual>
  __device__ static void each(float (&x)[V], const float (&y)[V], const float (&p)[V],
                              const General& by_general, const Usual& by_usual) {
    if (kWhole && largest(y) > 1.0f) {
#pragma unroll
      for (int j = 0; j < V; ++j) x[j] = by_general(x[j], y[j], p[j]);
    } else {
#pragma unroll
      for (int j = 0; j < V; ++j) x[j] = by_usual(x[j], y[j], p[j]);
    }
  }
  template <int V>
  __device__ static float largest(const float (&y)[V]) {
    float all = y[0];
#pragma unroll
    for (int j = 1; j < V; ++j) all = fmaxf(all, y[j]);
    return all;
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

// Whether there is a kernel of the labels' own side for such labels, and the call may have it.
template <class Functor, Path kPath>
constexpr bool kHasSided = Functor::kWide && labels_of(kPath) == Labels::kBytes;
template <class Functor>
bool is_sided(const Packed<float>& given) {
  return given.smoothing() == 0 && Functor::sided(Params<Functor, double>(given));
}

// Calls visit(Functor{}, constant of the path, constant of whether its exponents are whole).
template <class Visit>
void visit_kernel(Loss loss, Path path, const PointwiseArgs& args, const Visit& visit) {
  visit_loss(loss, [&](auto functor) {
    visit_path(path, [&](auto constant) {
      using Functor = decltype(functor);
      if constexpr (kHasSided<Functor, constant()>) {
        if (is_sided<Functor>(args.params)) return visit(functor, constant, std::true_type());
      }
      visit(functor, constant, std::false_type());
    });
  });
}

}  // namespace mtlfast
