// The gradients of the in-batch losses on the CPU: what stands before and after the matrix
// products. mtlfast/ops/inbatch.py holds the loop over tiles, and tells what each op does.
#include "devices.h"
#include "mining.h"
#include "partition.h"

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

}  // namespace

void Cpu::run(const NearCall& call) {
  const int64_t rows = call.tile.size(0), columns = call.tile.size(1), width = call.x.size(1);
  const bool radial = call.radial;
  visit_compute(call.compute, [&](auto f) {
    using F = decltype(f);
    constexpr int64_t kBlock = 64 / sizeof(F);
    F* values = written<F>(call.tile);
    const uint8_t* marks = read<uint8_t>(call.near);
    const int64_t skip = call.first * width;
    const NearSide<F> anchors{read<F>(call.x) + skip,
                              call.rounded ? read<F>(call.x_rest) + skip : nullptr,
                              call.x_grad ? written<F>(*call.x_grad) + skip : nullptr},
        others{read<F>(call.y), call.rounded ? read<F>(call.y_rest) : nullptr,
               call.y_grad ? written<F>(*call.y_grad) : nullptr};
    const auto add =
        (call.rounded ? choose_add_near<true, F>
                      : choose_add_near<false, F>)(anchors.grad != nullptr, others.grad != nullptr);
    // Threads share the columns: no row's sum depends on how many there are.
    torch::stable::parallel_for(0, divide_up(width, kBlock), 1, [&](int64_t from, int64_t to) {
      add(values, marks, anchors, others, rows, columns, width, from * kBlock,
          std::min(to * kBlock, width));
    });
    if (!call.dense) return;
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

void Cpu::run(const UnitsCall& call, const UnitsResult& result) {
  const int64_t rows = call.x.size(0), width = call.x.size(1);
  visit_compute(call.compute, [&](auto f) {
    using F = decltype(f);
    visit_storage(call.x.const_data_ptr(), call.x.scalar_type(), [&](auto* data) {
      for_rows(rows, width, [&](int64_t i) {
        F* out = written<F>(result.units) + i * width;
        widen_all(data + i * width, out, width);
        double factor = 1, norm = 1;
        if (call.normalize) {
          norm = std::sqrt(dot(out, out, width));
          factor = 1 / (norm < kSmallestNorm ? kSmallestNorm : norm);
          scale(out, factor, call.rounded ? written<F>(result.rest) + i * width : nullptr, width);
        }
        written<F>(result.reciprocal)[i] = static_cast<F>(norm < kSmallestNorm ? 0 : factor);
        written<F>(result.square)[i] = static_cast<F>(dot(out, out, width));
      });
    });
  });
}

void Cpu::run(const ProjectCall& call) {
  const int64_t rows = call.grad.size(0), width = call.grad.size(1);
  visit_compute(call.compute, [&](auto f) {
    using F = decltype(f);
    const double scale =
        call.factor * (call.coefficient ? double{*read<F>(*call.coefficient)} : 1.0);
    for_rows(rows, width, [&](int64_t i) {
      F* g = written<F>(call.grad) + i * width;
      const F* u = read<F>(call.units) + i * width;
      const double r = call.normalize ? scale * read<F>(call.reciprocal)[i] : scale;
      combine(g, F(r), u, call.normalize ? F(-r * dot(g, u, width)) : F(0), g, width);
    });
  });
}

void Cpu::run(const TotalsCall& call, const TotalsResult& result) {
  const int64_t rows = call.stats.size(0), terms = call.stats.size(1);
  const bool sum = call.reduction == Reduction::kSum, mean = call.reduction == Reduction::kMean;
  const double* given = read<double>(call.stats);
  visit_compute(call.compute, [&](auto f) {
    using F = decltype(f);
    double value = 0;
    for (int64_t t = 0; t < terms; ++t) {
      double sums[3] = {0, 0, 0};
      for (int64_t i = 0; i < rows; ++i) {
        for (int k = 0; k < 3; ++k) sums[k] += given[3 * (i * terms + t) + k];
      }
      const double count = sum ? 1 : sums[mean ? 2 : 1];
      value += sums[0] / std::max(count, 1.0);
      written<F>(result.coefficient)[t] = static_cast<F>(1 / std::max(count, 1.0));
    }
    *written<F>(result.loss) = static_cast<F>(value);
  });
}

}  // namespace mtlfast
