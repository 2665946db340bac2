// math.h and the functors over numpy arrays, for mtlfast._numerics: compiled once as the CPU
// computes and once as the GPU does.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#if defined(MTLFAST_EMULATED_GPU)
#include "sides.h"
#else
#include "cpu/wide.h"
#endif
#include "rows.h"

namespace mtlfast {

namespace py = pybind11;
template <class F>
using Array = py::array_t<F, py::array::c_style>;

// The functions of math.h by name; the second argument is the exponent, the divisor, the miss ...
template <class F>
const std::map<std::string, F (*)(F, F)>& functions() {
  static const std::map<std::string, F (*)(F, F)> all = {
      {"exp_nonpositive", [](F x, F) { return exp_nonpositive(x); }},
      {"exp_rounded", [](F x, F) { return exp_rounded(x); }},
      {"exp_compensated", [](F x, F) { return exp_compensated(x); }},
      {"log1p_unit", [](F x, F) { return log1p_unit(x); }},
      {"log1p_short", [](F x, F) { return log1p_unit<true>(x); }},
      {"log_positive", [](F x, F) { return log_positive(x); }},
      {"log_hit", [](F x, F miss) { return log_hit(x, miss, F(0)); }},
      {"pow_unit", [](F x, F g) { return pow_unit(x, g); }},
      {"pow_whole", [](F x, F g) { return pow_whole(x, g); }},
      {"divide", [](F x, F y) { return divide(x, y); }},
      {"abs", [](F x, F) { return abs(x); }},
      {"positive", [](F x, F) { return positive(x); }},
      {"bounded", [](F x, F) { return bounded(x); }},
      {"sigmoid_plus", [](F x, F) { return Logistic<F>(x).sigmoid().plus; }},
      {"sigmoid_minus", [](F x, F) { return Logistic<F>(x).sigmoid().minus; }},
      {"plus_beyond", [](F x, F c) { return Logistic<F>(x, exp_rounded(-abs(x))).plus_beyond(c); }},
      {"softplus_plus", [](F x, F) { return Logistic<F>(x).softplus().plus; }},
      {"softplus_minus", [](F x, F) { return Logistic<F>(x).softplus().minus; }},
  };
  return all;
}

// A function of math.h on arrays (n,) of F, evaluated in E.
template <class F, class E>
py::array_t<F> evaluate(const std::string& name, const Array<F>& x, const Array<F>& y) {
  const auto function = functions<E>().at(name);
  py::array_t<F> out(x.size());
  for (py::ssize_t i = 0; i < x.size(); ++i) {
    out.mutable_data()[i] = static_cast<F>(function(E(x.data()[i]), E(y.data()[i])));
  }
  return out;
}

// value and grad of a functor of pointwise.h, as a kernel on F evaluates it.
template <class Functor, class F>
void evaluate_pointwise(const F* x, const F* y, const F* p, const Packed<double>& given,
                        py::ssize_t count, F* value, F* grad) {
  const auto run = [&](auto functor, auto k, auto label) {
    using E = decltype(k.smoothing);
    for (py::ssize_t i = 0; i < count; ++i) {
      value[i] = static_cast<F>(functor.value(E(x[i]), label(E(y[i]), k), E(p[i]), k));
      grad[i] = static_cast<F>(functor.grad(E(x[i]), label(E(y[i]), k), E(p[i]), k));
    }
  };
  bool hard = given.smoothing() == 0;
  for (py::ssize_t i = 0; i < count; ++i) hard = hard && y[i] * (y[i] - F(1)) == F(0);
#if defined(MTLFAST_EMULATED_GPU)
  const Params<Functor, F> k(given);
  const auto label = [](F y, auto) { return y; };
  if constexpr (OwnSide<Functor>::kExists) {
    if (hard && OwnSide<Functor>::covers(Params<Functor, double>(given))) {
      return run(Sided<Functor>(), k, label);
    }
  }
  run(Functor(), k, label);
#else
  visit_params<Functor, F>(given, hard, [&](auto functor, auto k) {
    using Found = decltype(functor);
    run(functor, k, [](auto y, auto k) { return evaluated_label<Found>(y, k); });
  });
#endif
}

template <class F>
std::pair<py::array_t<F>, py::array_t<F>> pointwise(const std::string& loss, const Array<F>& x,
                                                    const Array<F>& y, const Array<F>& p,
                                                    const std::array<double, kMaxParams>& params) {
  py::array_t<F> value(x.size()), grad(x.size());
  const Packed<double> k{params[0], params[1], params[2], params[3], params[4]};
#define MTLFAST_EVALUATE(Functor)                                                                \
  if (loss == Functor::kName) {                                                                  \
    evaluate_pointwise<Functor>(x.data(), y.data(), p.data(), k, x.size(), value.mutable_data(), \
                                grad.mutable_data());                                            \
    return {value, grad};                                                                        \
  }
  MTLFAST_POINTWISE_LOSSES(MTLFAST_EVALUATE)
#undef MTLFAST_EVALUATE
  throw py::value_error("no pointwise loss is called " + loss);
}

// Losses (n,) and slopes (n, pairs) of a functor of rows.h from distances (n, pairs).
template <class F>
std::pair<py::array_t<F>, py::array_t<F>> rows(const std::string& functor, const Array<F>& d,
                                               const Array<bool>& same, double margin, double scale,
                                               double bias, double overlap,
                                               const std::vector<F>& gaps) {
  const py::ssize_t count = d.shape(0), pairs = d.shape(1);
  py::array_t<F> value(count), slopes({count, pairs});
  const auto run = [&](auto loss) {
    for (py::ssize_t i = 0; i < count; ++i) {
      const RowTerms<F> terms{F(margin),
                              same.data()[i],
                              F(scale),
                              F(bias),
                              F(overlap),
                              gaps.empty() ? nullptr : gaps.data(),
                              static_cast<int>(pairs)};
      value.mutable_data()[i] =
          loss.value(d.data() + i * pairs, terms, slopes.mutable_data() + i * pairs);
    }
    return std::pair(value, slopes);
  };
  if (functor == "contrastive") return run(ContrastiveLoss());
  if (functor == "cosine") return run(CosineContrastiveLoss());
  if (functor == "triplet") return run(TripletMarginLoss<false, false>());
  if (functor == "triplet_soft") return run(TripletMarginLoss<false, true>());
  if (functor == "triplet_swap") return run(TripletMarginLoss<true, false>());
  if (functor == "triplet_swap_soft") return run(TripletMarginLoss<true, true>());
  if (functor == "hierarchical") return run(HierarchicalTripletLoss());
  throw py::value_error("no functor on rows is called " + functor);
}

template <class F>
void bind_type(py::module_& module) {
  module.def("evaluate", &evaluate<F, F>, py::arg("name"), py::arg("x").noconvert(),
             py::arg("y").noconvert());
  module.def("pointwise", &pointwise<F>, py::arg("loss"), py::arg("x").noconvert(),
             py::arg("y").noconvert(), py::arg("p").noconvert(), py::arg("params"));
  module.def("rows", &rows<F>, py::arg("functor"), py::arg("d").noconvert(), py::arg("same"),
             py::arg("margin") = 1.0, py::arg("scale") = 1.0, py::arg("bias") = 0.0,
             py::arg("overlap") = 2.0, py::arg("gaps") = std::vector<F>());
}

}  // namespace mtlfast
