// The gradients of the in-batch losses on the CPU: what stands before and after the matrix
// products. mtlfast/ops/inbatch.py holds the loop over tiles, and tells what each op does.
#include <torch/csrc/stable/library.h>

#include "inbatch_call.h"
#include "mining.h"

namespace mtlfast {
namespace {

// One side of the near pairs: rows, what they lost in rounding (or null), and their gradients.
template <class F>
struct NearSide {
  const F *units, *rest;
  F* grad;  // or null
};

// Adds w (x - y) to the gradients of the anchors x, and takes it from those of the others y, in
// columns from `begin` to `end`.
template <bool kRest, bool kAnchors, bool kOthers, class F>
MTLFAST_CLONES void add_near(const F* tile, const uint8_t* near, const NearSide<F> x,
                             const NearSide<F> y, int64_t rows, int64_t columns, int64_t width,
                             int64_t begin, int64_t end) {
  for (int64_t i = 0; i < rows; ++i, tile += columns, near += columns) {
    if (!any_set(near, columns)) continue;
    for_set(near, columns, [&](int64_t j) MTLFAST_INLINED {
      const F w = tile[j];
      if (w == F(0)) return;
      const F *a = x.units + i * width, *b = y.units + j * width;
      const F *a_rest = x.rest + i * width, *b_rest = y.rest + j * width;
      F *sum = x.grad + i * width, *other = y.grad + j * width;
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) {
        const F t = kRest ? (a[c] - b[c]) + (a_rest[c] - b_rest[c]) : a[c] - b[c];
        if constexpr (kAnchors) sum[c] += w * t;
        if constexpr (kOthers) other[c] -= w * t;
      }
    });
  }
}

template <bool kRest, class F>
auto choose_add_near(bool anchors, bool others) {
  return !others    ? add_near<kRest, true, false, F>
         : !anchors ? add_near<kRest, false, true, F>
                    : add_near<kRest, true, true, F>;
}

template <class F>
MTLFAST_CLONES double sum_of(const F* __restrict row, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) sum += static_cast<double>(row[j]);
  return sum;
}

template <class F>
MTLFAST_CLONES void add_scaled(const F* __restrict x, double factor, F* __restrict sum,
                               int64_t count) {
  for (int64_t c = 0; c < count; ++c) sum[c] += static_cast<F>(factor * x[c]);
}

template <class F>
MTLFAST_CLONES void add_row(const F* __restrict row, double* __restrict sums, int64_t count) {
  for (int64_t j = 0; j < count; ++j) sums[j] += static_cast<double>(row[j]);
}

void near_pairs(const Tensor& tile, const Tensor& near, const Tensor& x, const Tensor& x_rest,
                const Tensor& y, const Tensor& y_rest, const OptionalTensor& x_grad,
                const OptionalTensor& y_grad, int64_t first, bool radial, bool dense) {
  const auto compute = compute_dtype_of("tile", tile);
  check("tile", tile, compute, {kAny, kAny});
  const int64_t rows = tile.size(0), columns = tile.size(1);
  const bool rounded = check_rows(x, x_rest, y, y_rest, compute, columns);
  const int64_t width = x.size(1);
  if (x_grad) check("x_grad", *x_grad, compute, {x.size(0), width});
  if (y_grad) check("y_grad", *y_grad, compute, {columns, width});
  check_near(near, rows, columns);
  check_tile(rows, columns, first, x.size(0), false);
  visit_compute(compute, [&](auto f) {
    using F = decltype(f);
    constexpr int64_t kBlock = 64 / sizeof(F);
    F* values = written<F>(tile);
    const uint8_t* marks = read<uint8_t>(near);
    const int64_t skip = first * width;
    const NearSide<F> anchors{read<F>(x) + skip, rounded ? read<F>(x_rest) + skip : nullptr,
                              x_grad ? written<F>(*x_grad) + skip : nullptr},
        others{read<F>(y), rounded ? read<F>(y_rest) : nullptr,
               y_grad ? written<F>(*y_grad) : nullptr};
    const auto add =
        (rounded ? choose_add_near<true, F> : choose_add_near<false, F>)(anchors.grad != nullptr,
                                                                         others.grad != nullptr);
    // Threads share the columns: no row's sum depends on how many there are.
    torch::stable::parallel_for(0, divide_up(width, kBlock), 1, [&](int64_t from, int64_t to) {
      add(values, marks, anchors, others, rows, columns, width, from * kBlock,
          std::min(to * kBlock, width));
    });
    if (!dense) return;
    for_rows(rows, columns, [&](int64_t i) {
      F* row = values + i * columns;
      if (any_set(marks + i * columns, columns)) {
        select<true>(row, marks + i * columns, F(1), F(0), row, columns);
      }
      if (radial && anchors.grad != nullptr) {
        add_scaled(anchors.units + i * width, sum_of(row, columns), anchors.grad + i * width,
                   width);
      }
    });
    if (!radial || others.grad == nullptr) return;
    const int64_t blocks = divide_up(columns, kBlock);
    for_rows(blocks, kBlock * (rows + width), [&](int64_t block) {
      const int64_t start = block * kBlock, length = std::min(kBlock, columns - start);
      double sums[kBlock] = {};
      for (int64_t i = 0; i < rows; ++i) add_row(values + i * columns + start, sums, length);
      for (int64_t j = 0; j < length; ++j) {
        const int64_t row = (start + j) * width;
        add_scaled(others.units + row, sums[j], others.grad + row, width);
      }
    });
  });
}

template <class F>
MTLFAST_CLONES double dot(const F* __restrict a, const F* __restrict b, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < count; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

// `rest` takes what rounding to F loses, or is null.
template <class F>
MTLFAST_CLONES void scale(F* __restrict row, double factor, F* __restrict rest, int64_t count) {
  if (rest == nullptr) {
    for (int64_t c = 0; c < count; ++c) row[c] = static_cast<F>(factor * row[c]);
    return;
  }
  for (int64_t c = 0; c < count; ++c) {
    const double exact = factor * static_cast<double>(row[c]);
    row[c] = static_cast<F>(exact);
    rest[c] = static_cast<F>(exact - static_cast<double>(row[c]));
  }
}

// out = factor a + other b
template <class F>
MTLFAST_CLONES void combine(const F* a, F factor, const F* b, F other, F* out, int64_t count) {
  for (int64_t c = 0; c < count; ++c) out[c] = factor * a[c] + other * b[c];
}

std::tuple<Tensor, Tensor, Tensor, Tensor> units(const Tensor& x, bool normalize) {
  require(x.defined(), "x is undefined; it must be a tensor.");
  const auto dtype = x.scalar_type(), compute = compute_dtype("x", dtype);
  check("x", x, dtype, {kAny, kAny});
  const bool rounded = normalize && compute == ScalarType::Float;
  const int64_t rows = x.size(0), width = x.size(1);
  Tensor unit = new_tensor(x, {rows, width}, compute),
         rest = new_tensor(x, {rounded ? rows : 0, width}, compute),
         reciprocal = new_tensor(x, {rows}, compute), square = new_tensor(x, {rows}, compute);
  visit_compute(compute, [&](auto f) {
    using F = decltype(f);
    visit_storage(x.const_data_ptr(), dtype, [&](auto* data) {
      for_rows(rows, width, [&](int64_t i) {
        F* out = written<F>(unit) + i * width;
        widen_all(data + i * width, out, width);
        double factor = 1, norm = 1;
        if (normalize) {
          norm = std::sqrt(dot(out, out, width));
          factor = 1 / (norm < kSmallestNorm ? kSmallestNorm : norm);
          scale(out, factor, rounded ? written<F>(rest) + i * width : nullptr, width);
        }
        written<F>(reciprocal)[i] = static_cast<F>(norm < kSmallestNorm ? 0 : factor);
        written<F>(square)[i] = static_cast<F>(dot(out, out, width));
      });
    });
  });
  return {unit, rest, reciprocal, square};
}

void project(const Tensor& grad, const Tensor& unit, const Tensor& reciprocal,
             const OptionalTensor& coefficient, double factor, bool normalize) {
  const auto compute = compute_dtype_of("grad", grad);
  check("grad", grad, compute, {kAny, kAny});
  const int64_t rows = grad.size(0), width = grad.size(1);
  check("units", unit, compute, {rows, width});
  check("reciprocal", reciprocal, compute, {rows});
  if (coefficient) check("coefficient", *coefficient, compute, {1});
  visit_compute(compute, [&](auto f) {
    using F = decltype(f);
    const double scale = factor * (coefficient ? double{*read<F>(*coefficient)} : 1.0);
    for_rows(rows, width, [&](int64_t i) {
      F* g = written<F>(grad) + i * width;
      const F* u = read<F>(unit) + i * width;
      const double r = normalize ? scale * read<F>(reciprocal)[i] : scale;
      combine(g, F(r), u, normalize ? F(-r * dot(g, u, width)) : F(0), g, width);
    });
  });
}

std::tuple<Tensor, Tensor> totals(const Tensor& stats, const Tensor& like, int64_t reduction) {
  const auto compute = compute_dtype_of("like", like);
  check("stats", stats, ScalarType::Double, {kAny, kAny, 3});
  const int64_t rows = stats.size(0), terms = stats.size(1);
  const auto chosen = numbered<Reduction>("reduction", reduction, kReductionNames);
  const bool sum = chosen == Reduction::kSum, mean = chosen == Reduction::kMean;
  require(sum || mean || chosen == Reduction::kNonzero,
          "an in-batch loss has the reductions nonzero, mean and sum alone.");
  Tensor loss = new_tensor(like, {}, compute), coefficient = new_tensor(like, {terms}, compute);
  const double* given = read<double>(stats);
  visit_compute(compute, [&](auto f) {
    using F = decltype(f);
    double value = 0;
    for (int64_t t = 0; t < terms; ++t) {
      double sums[3] = {0, 0, 0};
      for (int64_t i = 0; i < rows; ++i) {
        for (int k = 0; k < 3; ++k) sums[k] += given[3 * (i * terms + t) + k];
      }
      const double count = sum ? 1 : sums[mean ? 2 : 1];
      value += sums[0] / std::max(count, 1.0);
      written<F>(coefficient)[t] = static_cast<F>(1 / std::max(count, 1.0));
    }
    *written<F>(loss) = static_cast<F>(value);
  });
  return {loss, coefficient};
}

}  // namespace
}  // namespace mtlfast

STABLE_TORCH_LIBRARY_IMPL(mtlfast, CPU, library) {
  library.impl("inbatch_units", TORCH_BOX(&mtlfast::units));
  library.impl("inbatch_near", TORCH_BOX(&mtlfast::near_pairs));
  library.impl("inbatch_project", TORCH_BOX(&mtlfast::project));
  library.impl("inbatch_totals", TORCH_BOX(&mtlfast::totals));
}
