// The pointwise kernels: what they are called with, and which there are.
#pragma once

#include "labels.cuh"
#include "reduce.cuh"
#include "sides.h"

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

// How a kernel is compiled: the super-rows of a batch, and the blocks that a multiprocessor must
// hold. 32, 24 or 16 warps cap the registers of a thread at 64, 80 and 128. Without a bound ptxas
// spilled some kernels to reach 40 warps.
struct Shape {
  int unroll, resident;
};
template <class Functor, class Logit, Path kPath, bool kSided, bool kGrad>
constexpr Shape shape() {
  constexpr int kMost = kUnroll<Logit, kPath>;
  constexpr bool kLong = kGrad && OwnSide<Functor>::kTwoExponents;
  if (!is_plain(kPath)) return {kMost, 2};
  if (!Functor::kWide) return {kMost, 4};
  if (kSided && sizeof(Logit) == 4) return {kLong ? 2 : kMost, 4};
  return {kMost, 3};
}

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

// u^g for V numbers. The exponent is the same for all threads: branches cost less than what suits
// any exponent, if the compiler leaves them, which it must where they hold something volatile.
template <int V>
__device__ void raise(float (&u)[V], float g) {
  if (g == 1.0f) return;
  if (g == 2.0f) {
    asm volatile("");
#pragma unroll
    for (int j = 0; j < V; ++j) u[j] *= u[j];
  } else if (g == 4.0f) {
    asm volatile("");
#pragma unroll
    for (int j = 0; j < V; ++j) u[j] *= u[j], u[j] *= u[j];
  } else {
    asm volatile("");
#pragma unroll
    for (int j = 0; j < V; ++j) u[j] = pow_whole(u[j], g);
  }
}

// A loss and its gradient, for V elements in place of x.
template <class Functor, bool kShort>
struct Evaluated {
  const PointwiseArgs& args;
  Params<Functor, float, false, kShort> params;

  __device__ explicit Evaluated(const PointwiseArgs& args) : args(args), params(args.params) {}

  template <int V>
  __device__ void value(float (&x)[V], const Soft<V>& labels, const float (&p)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] = Functor::value(x[j], smoothed(labels.y[j]), p[j], params);
  }
  template <int V>
  __device__ void grad(float (&x)[V], const Soft<V>& labels, const float (&p)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] = Functor::grad(x[j], smoothed(labels.y[j]), p[j], params);
  }
  // Labels of 0 and 1.
  template <int V>
  __device__ void value(float (&x)[V], const Hard<V>& labels, const float (&p)[V]) const {
    on_side(x, labels, [&](const auto& side, int j, float power) {
      return side.value(labels.positive(j), p[j], power, params);
    });
  }
  template <int V>
  __device__ void grad(float (&x)[V], const Hard<V>& labels, const float (&p)[V]) const {
    on_side<true>(x, labels, [&](const auto& side, int j, float power) {
      return labels.turned(j, side.grad(labels.positive(j), p[j], power, params));
    });
  }
  // Other bytes, which are no class labels: called, to be no part of the loop.
  template <int V>
  __device__ void value(float (&x)[V], const Other<V>& labels, const float (&p)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] = general_value<Functor>(x[j], labels.y[j], p[j], general());
  }
  template <int V>
  __device__ void grad(float (&x)[V], const Other<V>& labels, const float (&p)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] = general_grad<Functor>(x[j], labels.y[j], p[j], general());
  }

 private:
  __device__ float smoothed(float y) const { return args.keep * y + args.add; }
  __device__ Params<Functor, float> general() const { return Params<Functor, float>(args.params); }

  // Four elements at a time, or registers would not do.
  template <bool kGrad = false, int V, class Function>
  __device__ void on_side(float (&x)[V], const Hard<V>& labels, const Function& function) const {
    using Own = OwnSide<Functor>;
    constexpr int kFew = 4;
#pragma unroll
    for (int first = 0; first < V; first += kFew) {
      Own sides[kFew];
      float power[kFew], of_positives[kFew];
#pragma unroll
      for (int i = 0; i < kFew; ++i) {
        const int j = first + i;
        sides[i] = Own(labels.turned(j, x[j]), labels.positive(j), params);
        power[i] = of_positives[i] = sides[i].miss;
      }
      if constexpr (Own::kPowers) {
        const auto exponents = kGrad ? Own::grad_exponents(params) : Own::value_exponents(params);
        raise(power, exponents.negative);
        if constexpr (Own::kTwoExponents) {
          raise(of_positives, exponents.positive);
#pragma unroll
          for (int i = 0; i < kFew; ++i) {
            if (labels.positive(first + i)) power[i] = of_positives[i];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kFew; ++i) x[first + i] = function(sides[i], first + i, power[i]);
    }
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
constexpr bool kHasSided = OwnSide<Functor>::kExists && labels_of(kPath) == Labels::kBytes;
template <class Functor>
bool is_sided(const Packed<float>& given) {
  return given.smoothing() == 0 && OwnSide<Functor>::covers(Params<Functor, double>(given));
}

// Calls visit(Functor{}, constant of the path, constant of whether it is on the labels' side).
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
