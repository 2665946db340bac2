// What a pointwise op was called with: parsed once, for every device.
#pragma once

#include <algorithm>

#include "call.h"

namespace mtlfast {

struct PointwiseCall {
  int64_t rows, tasks;
  Loss loss;
  Reduction reduction;
  Packed<double> params{};
  ScalarType compute;   // Float, or Double for Double logits
  bool classification;  // a negative target is missing, whatever its dtype
  bool weighted_mean;   // "mean" divides by the labelled sum of weight
  Operand logits, target, mask, weight, pos_weight, sample_weight;
  const void* task_weight = nullptr;  // (T,) of dtype compute
};

// What both pointwise ops are given.
struct PointwiseOperands {
  const Tensor &logits, &target;                                     // (N, T), contiguous
  const OptionalTensor &mask, &weight, &pos_weight, &sample_weight;  // (N, T), expanded views
  const OptionalTensor& task_weight;                                 // (T,)
  int64_t loss;                                                      // its number
  const std::vector<double>& params;
  int64_t reduction;  // its number
};

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

inline PointwiseCall parse_pointwise(const PointwiseOperands& given) {
  PointwiseCall call;
  const Tensor &logits = given.logits, &target = given.target;
  const size_t params = given.params.size();
  call.loss = numbered<Loss>("loss", given.loss, kPointwiseNames);
  call.reduction = numbered<Reduction>("reduction", given.reduction, kReductionNames);
  require(call.reduction != Reduction::kNonzero, "no pointwise loss has the reduction nonzero.");
  require(logits.defined() && target.defined(), "logits and target must be tensors.");
  require(logits.dim() == 2 && logits.is_contiguous(), "logits must be contiguous (N, T).");
  require(target.is_contiguous(), "target must be contiguous.");
  call.rows = logits.size(0);
  call.tasks = logits.size(1);
  const bool weighted = given.weight.has_value() && call.reduction == Reduction::kMean;
  visit_loss(call.loss, [&](auto functor) {
    using Functor = decltype(functor);
    constexpr int kTaken = 1 + kParameterCount<Functor>;
    require(params == kTaken, Functor::kName, " takes ", kTaken, " params; got ", params, ".");
    call.classification = Functor::kClassification;
    call.weighted_mean = Functor::kWeightedMean && weighted;
  });
  std::copy(given.params.begin(), given.params.end(), call.params.values);
  const auto dtype = logits.scalar_type();
  call.compute = compute_dtype("logits", dtype);
  call.logits = operand("logits", logits, logits, dtype);
  call.target = operand("target", target, logits, target.scalar_type());
  call.mask = operand("mask", given.mask, logits, ScalarType::Bool);
  call.weight = operand("weight", given.weight, logits, call.compute);
  call.pos_weight = operand("pos_weight", given.pos_weight, logits, call.compute);
  call.sample_weight = operand("sample_weight", given.sample_weight, logits, call.compute);
  call.task_weight = per_task("task_weight", given.task_weight, logits, call.compute);
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

}  // namespace mtlfast
