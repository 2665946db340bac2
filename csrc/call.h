// What the calls of all ops are made of: tensors, dtypes and numbers, checked once, for every
// device. The public functions check first and speak of the user's arguments; these checks guard
// the ops themselves.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"

namespace mtlfast {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "mtlfast: ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// An (N, T) operand, possibly broadcast: strides in elements, 0 along a broadcast dimension.
struct Operand {
  const void* data = nullptr;
  ScalarType dtype = ScalarType::Float;
  int64_t row_stride = 0, column_stride = 0;

  explicit operator bool() const { return data != nullptr; }
};

// The enumerator of a number, whose names are listed.
template <class Enum, size_t kCount>
Enum numbered(const char* what, int64_t number, const char* const (&names)[kCount]) {
  if (number >= 0 && number < static_cast<int64_t>(kCount)) return static_cast<Enum>(number);
  std::string listed;
  for (const char* name : names) listed += (listed.empty() ? "" : ", ") + std::string(name);
  require(false, what, " must be the number of one of ", listed, ", from 0 on; got ", number, ".");
  return {};
}

// Float, or Double for Double.
inline ScalarType compute_dtype(const char* name, ScalarType dtype) {
  require(dtype == ScalarType::Float || dtype == ScalarType::Double ||
              dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
          name, " must be float32, float64, bfloat16 or float16; got ",
          torch::headeronly::toString(dtype), ".");
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// More elements than any memory holds: an expanded tensor may have them, and their bytes overflow.
constexpr int64_t kMostElements = int64_t{1} << 48;

// That a tensor may be read, as a raw pointer and strides: it is defined, on the device of `like`,
// and its elements lie in its storage, which can shrink under a tensor.
inline void require_readable(const char* name, const Tensor& tensor, const Tensor& like) {
  require(tensor.defined() && like.defined(), name, " is undefined; it must be a tensor.");
  int32_t device = 0, wanted = 0;
  int64_t bytes = 0;
  require(aoti_torch_get_device_type(tensor.get(), &device) == 0 &&
              aoti_torch_get_device_type(like.get(), &wanted) == 0 &&
              aoti_torch_get_storage_size(tensor.get(), &bytes) == 0,
          name, " has no storage.");
  require(device == wanted && tensor.get_device_index() == like.get_device_index(), name,
          " must be on the device of the first tensor.");
  const int64_t count = tensor.numel();
  require(count <= kMostElements, name, " has ", count, " elements; at most ", kMostElements,
          " can be counted.");
  if (count == 0) return;
  double last = static_cast<double>(tensor.storage_offset());  // int64_t could overflow
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    last += static_cast<double>(tensor.size(i) - 1) * static_cast<double>(tensor.stride(i));
  }
  require((last + 1) * static_cast<double>(tensor.element_size()) <= static_cast<double>(bytes),
          name, " has more elements than its storage of ", bytes,
          " bytes holds; it was freed or made smaller.");
}

inline void require_dtype(const char* name, const Tensor& tensor, ScalarType dtype) {
  const ScalarType got = tensor.scalar_type();
  require(got == dtype, name, " must be ", torch::headeronly::toString(dtype), "; got ",
          torch::headeronly::toString(got), ".");
}

// `like`: the logits, or the first of the rows.
inline Operand operand(const char* name, const OptionalTensor& tensor, const Tensor& like,
                       ScalarType dtype) {
  if (!tensor) return {};
  require_readable(name, *tensor, like);
  require_dtype(name, *tensor, dtype);
  require(tensor->dim() == 2 && tensor->size(0) == like.size(0) && tensor->size(1) == like.size(1),
          name, " must have the shape of the input.");
  const bool empty = tensor->numel() == 0;
  return {empty ? nullptr : tensor->const_data_ptr(), dtype, tensor->stride(0), tensor->stride(1)};
}

// One number of the compute dtype, or null.
inline const void* scalar(const char* name, const OptionalTensor& tensor, const Tensor& like,
                          ScalarType dtype) {
  if (!tensor) return nullptr;
  require_readable(name, *tensor, like);
  require_dtype(name, *tensor, dtype);
  require(tensor->numel() == 1, name, " must be a scalar.");
  return tensor->const_data_ptr();
}

}  // namespace mtlfast
