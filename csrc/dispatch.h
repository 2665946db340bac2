// From names and dtypes to types, each once: a loss's name to its functor, a reduction's name to
// its number, and, in visit_loss, a number to code specialised for one functor.
#pragma once

#include <string>
#include <string_view>

#include "pointwise.h"

namespace mtlfast {

enum class Loss : int {
#define MTLFAST_ENUMERATE(Functor) Functor,
  MTLFAST_POINTWISE_LOSSES(MTLFAST_ENUMERATE)
#undef MTLFAST_ENUMERATE
};

// Calls visit(Functor{}). Always inlined, so that a loop inside `visit` is compiled for the
// instruction set of the function that dispatches.
template <class Visit>
inline MTLFAST_INLINED void visit_loss(Loss loss, Visit&& visit) {
  switch (loss) {
#define MTLFAST_CASE(Functor) \
  case Loss::Functor:         \
    return visit(Functor{});
    MTLFAST_POINTWISE_LOSSES(MTLFAST_CASE)
#undef MTLFAST_CASE
  }
}

template <class Functor, class F>
concept HasGamma = requires(const Params<F>& k) { Functor::gamma(k); };

// Calls visit(Functor{}, params), with the focal exponent in the type where it is 0, 1 or 2.
template <class F, class Visit>
inline MTLFAST_INLINED void visit_loss(Loss loss, const Params<F>& params, Visit&& visit) {
  visit_loss(loss, [&](auto functor) MTLFAST_INLINED {
    const auto [smoothing, a, b, c, d] = params;
    if constexpr (HasGamma<decltype(functor), F>) {
      const F gamma = functor.gamma(params);
      if (gamma == F(0)) return visit(functor, Params<F, 0>{smoothing, a, b, c, d});
      if (gamma == F(1)) return visit(functor, Params<F, 1>{smoothing, a, b, c, d});
      if (gamma == F(2)) return visit(functor, Params<F, 2>{smoothing, a, b, c, d});
    }
    visit(functor, params);
  });
}

// The names of the losses, separated by ", ".
inline std::string loss_names() {
  std::string names;
#define MTLFAST_NAME(Functor) names += (names.empty() ? "" : ", ") + std::string(Functor::kName);
  MTLFAST_POINTWISE_LOSSES(MTLFAST_NAME)
#undef MTLFAST_NAME
  return names;
}

// False where no loss has that name.
inline bool find_loss(std::string_view name, Loss* loss) {
#define MTLFAST_MATCH(Functor)  \
  if (name == Functor::kName) { \
    *loss = Loss::Functor;      \
    return true;                \
  }
  MTLFAST_POINTWISE_LOSSES(MTLFAST_MATCH)
#undef MTLFAST_MATCH
  return false;
}

enum class Reduction : int { kNone, kSum, kMean, kBatchMean, kTaskMean };

inline bool find_reduction(std::string_view name, Reduction* reduction) {
  constexpr std::string_view kNames[] = {"none", "sum", "mean", "batchmean", "taskmean"};
  for (int i = 0; i < 5; ++i) {
    if (name == kNames[i]) {
      *reduction = static_cast<Reduction>(i);
      return true;
    }
  }
  return false;
}

}  // namespace mtlfast
