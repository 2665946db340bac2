// Where each op begins, once for all devices: a call is parsed, its result allocated, and both are
// handed to the device's body. Arguments are those of the schemas in ops.cpp.
#pragma once

#include <tuple>
#include <vector>

#include "devices.h"

namespace mtlfast {

template <class Device>
struct Entries {
  static std::tuple<Tensor, Tensor, Tensor, Tensor> pointwise_forward(
      const Tensor& logits, const Tensor& target, const OptionalTensor& mask,
      const OptionalTensor& weight, const OptionalTensor& pos_weight,
      const OptionalTensor& sample_weight, const OptionalTensor& task_weight, int64_t loss,
      const std::vector<double>& params, int64_t reduction) {
    const auto call = parse_pointwise({logits, target, mask, weight, pos_weight, sample_weight,
                                       task_weight, loss, params, reduction});
    const PointwiseResult result(call, logits);
    Device::forward(call, result);
    return result.as_tuple();
  }

  static Tensor pointwise_backward(const OptionalTensor& grad_loss,
                                   const OptionalTensor& grad_task_loss, const Tensor& logits,
                                   const Tensor& target, const OptionalTensor& mask,
                                   const OptionalTensor& weight, const OptionalTensor& pos_weight,
                                   const OptionalTensor& sample_weight,
                                   const OptionalTensor& task_weight, const Tensor& count,
                                   const Tensor& denominator, int64_t loss,
                                   const std::vector<double>& params, int64_t reduction) {
    const auto call = parse_pointwise({logits, target, mask, weight, pos_weight, sample_weight,
                                       task_weight, loss, params, reduction});
    const auto upstream =
        parse_upstream(call, grad_loss, grad_task_loss, logits, count, denominator);
    const Tensor gradient = new_tensor(logits, {call.rows, call.tasks}, call.logits.dtype);
    if (call.rows * call.tasks > 0) Device::backward(call, upstream, gradient);
    return gradient;
  }

  static std::tuple<Tensor, Tensor> rows_forward(
      const std::vector<Tensor>& rows, const OptionalTensor& same, const OptionalTensor& margin,
      const OptionalTensor& sample_weight, const OptionalTensor& scale, const OptionalTensor& bias,
      int64_t loss, const std::vector<double>& params, int64_t reduction) {
    const auto call =
        parse_rows({rows, same, margin, sample_weight, scale, bias, loss, params, reduction});
    const RowsResult result(call, rows[0]);
    Device::forward(call, result);
    return result.as_tuple();
  }

  static std::vector<Tensor> rows_backward(const Tensor& grad_loss, const std::vector<Tensor>& rows,
                                           const OptionalTensor& same, const OptionalTensor& margin,
                                           const OptionalTensor& sample_weight,
                                           const OptionalTensor& scale, const OptionalTensor& bias,
                                           const Tensor& denominator, int64_t loss,
                                           const std::vector<double>& params, int64_t reduction,
                                           const std::vector<int64_t>& wanted) {
    const auto call =
        parse_rows({rows, same, margin, sample_weight, scale, bias, loss, params, reduction});
    const auto upstream = parse_rows_upstream(call, grad_loss, denominator, rows[0]);
    const RowsGradients gradients(call, rows[0], wanted);
    if (call.samples > 0 && !wanted.empty()) Device::backward(call, upstream, gradients);
    return gradients.tensors;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> inbatch_units(const Tensor& x, bool normalize) {
    const UnitsCall call(x, normalize);
    const UnitsResult result(call);
    Device::run(call, result);
    return result.as_tuple();
  }

  static void inbatch_mine(const Tensor& tile, const OptionalTensor& near, const Tensor& stats,
                           const Tensor& x, const Tensor& x_rest, const Tensor& x_square,
                           const Tensor& x_labels, const Tensor& y, const Tensor& y_rest,
                           const Tensor& y_square, const Tensor& y_labels, int64_t first, bool own,
                           bool shared, int64_t loss, const std::vector<double>& params) {
    Device::run(MineCall({tile,
                          near,
                          stats,
                          {x, x_rest, x_square, x_labels},
                          {y, y_rest, y_square, y_labels},
                          first,
                          own,
                          shared,
                          loss,
                          params}));
  }

  static std::tuple<Tensor, Tensor> inbatch_totals(const Tensor& stats, const Tensor& like,
                                                   int64_t reduction) {
    const TotalsCall call(stats, like, reduction);
    const TotalsResult result(call);
    Device::run(call, result);
    return result.as_tuple();
  }

  static void inbatch_weigh(const Tensor& tile, const Tensor& x_labels, const Tensor& y_labels,
                            const Tensor& coefficient, int64_t first, bool own, bool shared,
                            const std::vector<double>& params) {
    Device::run(WeighCall({tile, x_labels, y_labels, coefficient, first, own, shared, params}));
  }

  static void inbatch_near(const Tensor& tile, const Tensor& near, const Tensor& x,
                           const Tensor& x_rest, const Tensor& y, const Tensor& y_rest,
                           const OptionalTensor& x_grad, const OptionalTensor& y_grad,
                           int64_t first, bool radial, bool dense) {
    Device::run(NearCall({tile, near, x, x_rest, y, y_rest, x_grad, y_grad, first, radial, dense}));
  }

  static void inbatch_project(const Tensor& grad, const Tensor& units, const Tensor& reciprocal,
                              const OptionalTensor& coefficient, double factor, bool normalize) {
    Device::run(ProjectCall({grad, units, reciprocal, coefficient, factor, normalize}));
  }
};

}  // namespace mtlfast
