// A loss's parameters by name: the one place where a list of numbers becomes named fields.
#pragma once

#include <type_traits>
#include <utility>

#include "math.h"

namespace mtlfast {

// Declares them in a struct, in the order of the loss's record in mtlfast/ops/catalogue.py: they
// are the fields of Parameters<F>, and kParameters are their names.
#define MTLFAST_PARAMETERS(...)                            \
  static constexpr const char* kParameters = #__VA_ARGS__; \
  template <class F>                                       \
  struct Parameters {                                      \
    F __VA_ARGS__;                                         \
  }

struct WithoutParameters {
  static constexpr const char* kParameters = "";
  template <class F>
  struct Parameters {};
};

template <class Loss>
constexpr int kParameterCount =
    std::is_empty_v<typename Loss::template Parameters<char>>
        ? 0
        : static_cast<int>(sizeof(typename Loss::template Parameters<char>));

template <class Loss, class F, class G, int... kIndex>
MTLFAST_INLINE typename Loss::template Parameters<F> named(const G* values,
                                                           std::integer_sequence<int, kIndex...>) {
  return {F(values[kIndex])...};
}

// A loss's parameters from numbers in their order.
template <class Loss, class F, class G>
MTLFAST_INLINE typename Loss::template Parameters<F> named(const G* values) {
  return named<Loss, F>(values, std::make_integer_sequence<int, kParameterCount<Loss>>());
}

}  // namespace mtlfast
