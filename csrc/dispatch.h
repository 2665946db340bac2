// From names and dtypes to types, each once: a loss's name to its functor, a reduction's name to
// its number, a dtype to its storage type, and a number to code specialised for it.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

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

// 16-bit floats, by their bits.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

using torch::headeronly::ScalarType;

// Calls visit(T{}) with a floating storage type; checks.h has refused other dtypes than these.
template <class Visit>
MTLFAST_INLINE void visit_floating(ScalarType dtype, Visit&& visit) {
  switch (dtype) {
    case ScalarType::Double:
      return visit(double{});
    case ScalarType::BFloat16:
      return visit(BFloat16{});
    case ScalarType::Half:
      return visit(Half{});
    default:
      return visit(float{});
  }
}

// Calls visit(pointer of the storage type), floating or not.
template <class Visit>
MTLFAST_INLINE void visit_storage(const void* data, ScalarType dtype, Visit&& visit) {
  switch (dtype) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return visit(static_cast<const uint8_t*>(data));
    case ScalarType::Char:
      return visit(static_cast<const int8_t*>(data));
    case ScalarType::Short:
      return visit(static_cast<const int16_t*>(data));
    case ScalarType::Int:
      return visit(static_cast<const int32_t*>(data));
    case ScalarType::Long:
      return visit(static_cast<const int64_t*>(data));
    default:
      visit_floating(dtype,
                     [&](auto t) MTLFAST_INLINED { visit(static_cast<const decltype(t)*>(data)); });
  }
}

// Each family takes some of these.
enum class Reduction : int { kNone, kSum, kMean, kBatchMean, kTaskMean, kNonzero };

inline bool find_reduction(std::string_view name, Reduction* reduction) {
  constexpr std::string_view kNames[] = {"none", "sum", "mean", "batchmean", "taskmean", "nonzero"};
  for (int i = 0; i < 6; ++i) {
    if (name == kNames[i]) {
      *reduction = static_cast<Reduction>(i);
      return true;
    }
  }
  return false;
}

}  // namespace mtlfast
