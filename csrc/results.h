// What the ops return, allocated for a call.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <tuple>

#include "inbatch_call.h"
#include "pointwise_call.h"
#include "rows_call.h"

namespace mtlfast {

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

// What pointwise_forward returns.
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

// What rows_forward returns.
struct RowsResult {
  Tensor loss;         // 0-dimensional in the compute dtype, or (N,) like the rows for "none"
  Tensor denominator;  // 0-dimensional in the compute dtype

  RowsResult(const RowsCall& call, const Tensor& rows)
      : loss(call.reduction == Reduction::kNone ? new_tensor(rows, {call.samples}, call.dtype)
                                                : new_tensor(rows, {}, call.compute)),
        denominator(new_tensor(rows, {}, call.compute)) {}

  std::tuple<Tensor, Tensor> as_tuple() const { return {loss, denominator}; }
};

// What rows_backward returns: contiguous gradients of the wanted rows.
struct RowsGradients {
  std::vector<Tensor> tensors;
  void* data[kMaxRows] = {nullptr};  // by row; null where it is not wanted, or empty

  RowsGradients(const RowsCall& call, const Tensor& rows, const std::vector<int64_t>& wanted) {
    int64_t last = -1;
    for (const int64_t row : wanted) {
      require(row > last && row < call.inputs, "wanted must be ascending indices of rows.");
      last = row;
      tensors.push_back(new_tensor(rows, {call.samples, call.width}, call.dtype));
      data[row] = call.samples == 0 ? nullptr : tensors.back().mutable_data_ptr();
    }
  }
};

// What inbatch_units returns.
struct UnitsResult {
  Tensor units, rest;         // (N, D), and what they lost in rounding or (0, D)
  Tensor reciprocal, square;  // (N,)

  explicit UnitsResult(const UnitsCall& call)
      : units(new_tensor(call.x, {call.x.size(0), call.x.size(1)}, call.compute)),
        rest(new_tensor(call.x, {call.rounded ? call.x.size(0) : 0, call.x.size(1)}, call.compute)),
        reciprocal(new_tensor(call.x, {call.x.size(0)}, call.compute)),
        square(new_tensor(call.x, {call.x.size(0)}, call.compute)) {}

  std::tuple<Tensor, Tensor, Tensor, Tensor> as_tuple() const {
    return {units, rest, reciprocal, square};
  }
};

// What inbatch_totals returns.
struct TotalsResult {
  Tensor loss, coefficient;  // 0-dimensional and (terms,)

  explicit TotalsResult(const TotalsCall& call)
      : loss(new_tensor(call.stats, {}, call.compute)),
        coefficient(new_tensor(call.stats, {call.stats.size(1)}, call.compute)) {}

  std::tuple<Tensor, Tensor> as_tuple() const { return {loss, coefficient}; }
};

}  // namespace mtlfast
