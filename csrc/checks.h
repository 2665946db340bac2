// What a pointwise op was called with: parsed and checked once, for every device. The public
// functions check first and speak of the user's arguments; these checks guard the ops themselves.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
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

struct PointwiseCall {
  int64_t rows, tasks;
  Loss loss;
  Reduction reduction;
  double params[kMaxParams] = {0, 0, 0, 0, 0};
  ScalarType compute;   // Float, or Double for Double logits
  bool classification;  // a negative target is missing, whatever its dtype
  bool weighted_mean;   // "mean" divides by the labelled sum of weight
  Operand logits, target, mask, weight, pos_weight, sample_weight;
  const void* task_weight = nullptr;  // (T,) of dtype compute

  template <class F>
  Params<F> params_as() const {
    return {F(params[0]), F(params[1]), F(params[2]), F(params[3]), F(params[4])};
  }
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

// A (T,) tensor of the compute dtype, or null.
inline const void* per_task(const char* name, const OptionalTensor& tensor, const Tensor& logits,
                            ScalarType dtype) {
  if (!tensor) return nullptr;
  require_readable(name, *tensor, logits);
  require_dtype(name, *tensor, dtype);
  require(tensor->dim() == 1 && tensor->size(0) == logits.size(1) && tensor->is_contiguous(), name,
          " must be a contiguous (T,) tensor.");
  return tensor->const_data_ptr();
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

inline PointwiseCall parse_pointwise(const Tensor& logits, const Tensor& target,
                                     const OptionalTensor& mask, const OptionalTensor& weight,
                                     const OptionalTensor& pos_weight,
                                     const OptionalTensor& sample_weight,
                                     const OptionalTensor& task_weight, int64_t loss,
                                     const std::vector<double>& params, int64_t reduction) {
  PointwiseCall call;
  call.loss = numbered<Loss>("loss", loss, kPointwiseNames);
  call.reduction = numbered<Reduction>("reduction", reduction, kReductionNames);
  require(call.reduction != Reduction::kNonzero, "no pointwise loss has the reduction nonzero.");
  require(logits.defined() && target.defined(), "logits and target must be tensors.");
  require(logits.dim() == 2 && logits.is_contiguous(), "logits must be contiguous (N, T).");
  require(target.is_contiguous(), "target must be contiguous.");
  call.rows = logits.size(0);
  call.tasks = logits.size(1);
  visit_loss(call.loss, [&](auto functor) {
    using Functor = decltype(functor);
    require(params.size() == Functor::kParams, Functor::kName, " takes ", Functor::kParams,
            " params; got ", params.size(), ".");
    call.classification = Functor::kClassification;
    call.weighted_mean = Functor::kWeightedMean && weight && call.reduction == Reduction::kMean;
  });
  for (size_t i = 0; i < params.size(); ++i) call.params[i] = params[i];
  const auto dtype = logits.scalar_type();
  call.compute = compute_dtype("logits", dtype);
  call.logits = operand("logits", logits, logits, dtype);
  call.target = operand("target", target, logits, target.scalar_type());
  call.mask = operand("mask", mask, logits, ScalarType::Bool);
  call.weight = operand("weight", weight, logits, call.compute);
  call.pos_weight = operand("pos_weight", pos_weight, logits, call.compute);
  call.sample_weight = operand("sample_weight", sample_weight, logits, call.compute);
  call.task_weight = per_task("task_weight", task_weight, logits, call.compute);
  switch (target.scalar_type()) {
    case ScalarType::Char:
    case ScalarType::Short:
    case ScalarType::Int:
    case ScalarType::Long:
    case ScalarType::Bool:
    case ScalarType::Byte:
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::BFloat16:
    case ScalarType::Half:
      break;
    default:
      require(false, "target must be floating, bool, uint8, int8, int16, int32 or int64.");
  }
  return call;
}

// The gradient of what the forward returned: of loss () or, for "none", (N, T); of task_loss (T,).
// Either may be absent.
struct Upstream {
  Operand loss;
  const void* task_loss;
  const int64_t* count;
  const void* denominator;

  // d loss / d S_t without the task weight, and d task_loss / d S_t.
  template <class F>
  double of_loss(int64_t t) const {
    if (!loss) return 0;
    return double{*static_cast<const F*>(loss.data)} / static_cast<const F*>(denominator)[t];
  }
  template <class F>
  double of_task(int64_t t) const {
    if (task_loss == nullptr) return 0;
    const auto labelled = static_cast<double>(count[t] > 1 ? count[t] : 1);
    return static_cast<const F*>(task_loss)[t] / labelled;
  }
};

inline Upstream parse_upstream(const PointwiseCall& call, const OptionalTensor& grad_loss,
                               const OptionalTensor& grad_task_loss, const Tensor& logits,
                               const Tensor& count, const Tensor& denominator) {
  Upstream upstream;
  if (call.reduction == Reduction::kNone) {
    upstream.loss = operand("grad_loss", grad_loss, logits, logits.scalar_type());
  } else {
    upstream.loss.data = scalar("grad_loss", grad_loss, logits, call.compute);
  }
  upstream.task_loss = per_task("grad_task_loss", grad_task_loss, logits, call.compute);
  upstream.count = static_cast<const int64_t*>(per_task("count", count, logits, ScalarType::Long));
  upstream.denominator = per_task("denominator", denominator, logits, call.compute);
  return upstream;
}

// A contiguous tensor on the device of `like`, of at most two dimensions. Allocated directly:
// through the dispatcher, the four outputs of a forward cost 2 us.
inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes,
                         ScalarType dtype) {
  const int64_t columns = sizes.size() == 2 ? std::max<int64_t>(*(sizes.end() - 1), 1) : 1;
  const int64_t strides[] = {columns, 1};
  int32_t device_type = 0;
  AtenTensorHandle handle = nullptr;
  const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  require(aoti_torch_get_device_type(like.get(), &device_type) == 0 &&
              aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides, code, device_type,
                                       like.get_device_index(), &handle) == 0,
          "there is no memory for what the op returns.");
  return Tensor(handle);
}

// What the forward op returns, allocated.
struct PointwiseResult {
  Tensor loss;         // 0-dimensional in the compute dtype, or (N, T) like the logits for "none"
  Tensor task_loss;    // (T,)
  Tensor count;        // (T,) int64
  Tensor denominator;  // (T,): loss = sum_t task_weight[t] S[t] / denominator[t]

  PointwiseResult(const PointwiseCall& call, const Tensor& logits)
      : loss(call.reduction == Reduction::kNone
                 ? new_tensor(logits, {call.rows, call.tasks}, call.logits.dtype)
                 : new_tensor(logits, {}, call.compute)),
        task_loss(new_tensor(logits, {call.tasks}, call.compute)),
        count(new_tensor(logits, {call.tasks}, ScalarType::Long)),
        denominator(new_tensor(logits, {call.tasks}, call.compute)) {}

  std::tuple<Tensor, Tensor, Tensor, Tensor> as_tuple() const {
    return {loss, task_loss, count, denominator};
  }
};

}  // namespace mtlfast
