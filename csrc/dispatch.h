// From numbers and dtypes to types, each once: a loss's number to its functor, a dtype to its
// storage type, and a number to code specialised for it. Ops take losses and reductions by number,
// in the order of their lists: a str argument would leak at every call, in torch's conversions.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <type_traits>

#include "pointwise.h"

namespace mtlfast {

enum class Loss : int {
#define MTLFAST_ENUMERATE(Functor) Functor,
  MTLFAST_POINTWISE_LOSSES(MTLFAST_ENUMERATE)
#undef MTLFAST_ENUMERATE
};

constexpr const char* kPointwiseNames[] = {
#define MTLFAST_NAME(Functor) Functor::kName,
    MTLFAST_POINTWISE_LOSSES(MTLFAST_NAME)
#undef MTLFAST_NAME
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

// 16-bit floats, by their bits.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

using torch::headeronly::ScalarType;

// Calls visit(T{}) with a floating storage type; call.h has refused other dtypes than these.
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
#define MTLFAST_REDUCTIONS(X) \
  X(kNone, none)              \
  X(kSum, sum)                \
  X(kMean, mean)              \
  X(kBatchMean, batchmean)    \
  X(kTaskMean, taskmean)      \
  X(kNonzero, nonzero)

enum class Reduction : int {
#define MTLFAST_ENUMERATE(constant, name) constant,
  MTLFAST_REDUCTIONS(MTLFAST_ENUMERATE)
#undef MTLFAST_ENUMERATE
};

constexpr const char* kReductionNames[] = {
#define MTLFAST_NAME(constant, name) #name,
    MTLFAST_REDUCTIONS(MTLFAST_NAME)
#undef MTLFAST_NAME
};

}  // namespace mtlfast
