// What the in-batch ops were called with: operands, checked once, for every device.
// mtlfast/ops/inbatch.py tells what each op does.
#pragma once

#include <initializer_list>
#include <limits>

#include "call.h"
#include "inbatch.h"

namespace mtlfast {

enum class InBatchLoss : int {
#define MTLFAST_ENUMERATE(name) name,
  MTLFAST_INBATCH_LOSSES(MTLFAST_ENUMERATE)
#undef MTLFAST_ENUMERATE
};

constexpr const char* kInBatchNames[] = {
#define MTLFAST_NAME(name) #name,
    MTLFAST_INBATCH_LOSSES(MTLFAST_NAME)
#undef MTLFAST_NAME
};

// A size that check() takes as it comes.
constexpr int64_t kAny = -1;

// That a tensor is contiguous and as the op asks for. Ops read no size before.
inline void check(const char* name, const Tensor& tensor, ScalarType dtype,
                  std::initializer_list<int64_t> sizes) {
  require_readable(name, tensor, tensor);
  require_dtype(name, tensor, dtype);
  bool right = tensor.is_contiguous() && tensor.dim() == static_cast<int64_t>(sizes.size());
  for (int64_t i = 0; right && i < tensor.dim(); ++i) {
    const int64_t wanted = sizes.begin()[i];
    right = wanted == kAny || tensor.size(i) == wanted;
  }
  if (right) return;
  std::string shape;
  for (const int64_t size : sizes) {
    shape += (shape.empty() ? "" : ", ") + (size == kAny ? "any" : std::to_string(size));
  }
  require(false, name, " must be contiguous, of shape (", shape, ").");
}

// The dtype of a tensor that says in which one the op computes.
inline ScalarType compute_dtype_of(const char* name, const Tensor& tensor) {
  require(tensor.defined(), name, " is undefined; it must be a tensor.");
  const auto dtype = tensor.scalar_type();
  require(dtype == ScalarType::Float || dtype == ScalarType::Double, name,
          " must be float32 or float64; got ", torch::headeronly::toString(dtype), ".");
  return dtype;
}

// A tile's anchors, rows of x from `first` on, are compared with all rows of y: checks how many of
// each there are. `own`: x and y are the same rows.
inline void check_tile(int64_t rows, int64_t columns, int64_t first, int64_t anchors, bool own) {
  require(first >= 0 && rows <= anchors && first <= anchors - rows, "the tile's ", rows,
          " anchors from ", first, " on must be among the ", anchors, " of x.");
  require(columns <= std::numeric_limits<int32_t>::max(), "a tile has at most 2^31 - 1 columns.");
  require(!own || columns == anchors, "x and y must be the same rows for `own`; got ", anchors,
          " and ", columns, ".");
}

// Labels of anchors and of the others, words of bits or, one word, numbers.
inline void check_labels(const Tensor& x_labels, const Tensor& y_labels, int64_t anchors,
                         int64_t columns, bool shared) {
  check("x_labels", x_labels, ScalarType::Long, {kAny, anchors});
  check("y_labels", y_labels, ScalarType::Long, {x_labels.size(0), columns});
  require(shared || x_labels.size(0) == 1, "labels that are no bits must be one word; got ",
          x_labels.size(0), ".");
}

// Rows x and the others y, and what both lost in rounding. Returns whether they lost anything.
inline bool check_rows(const Tensor& x, const Tensor& x_rest, const Tensor& y, const Tensor& y_rest,
                       ScalarType dtype, int64_t columns) {
  check("x", x, dtype, {kAny, kAny});
  check("y", y, dtype, {columns, x.size(1)});
  check("x_rest", x_rest, dtype, {kAny, x.size(1)});
  check("y_rest", y_rest, dtype, {kAny, x.size(1)});
  const bool rounded = x_rest.size(0) > 0 || y_rest.size(0) > 0;
  const int64_t lost_of_x = rounded ? x.size(0) : 0, lost_of_y = rounded ? columns : 0;
  require(x_rest.size(0) == lost_of_x && y_rest.size(0) == lost_of_y,
          "x_rest and y_rest must both be empty or have the rows of x and y, ", x.size(0), " and ",
          columns, "; got ", x_rest.size(0), " and ", y_rest.size(0), ".");
  return rounded;
}

// Marks of near pairs: one byte for each of the tile's, maybe more.
inline void check_near(const Tensor& near, int64_t rows, int64_t columns) {
  require_readable("near", near, near);
  require_dtype("near", near, ScalarType::Byte);
  require(near.is_contiguous() && near.numel() >= rows * columns,
          "near must be contiguous and as large as the tile.");
}

struct UnitsCall {
  const Tensor& x;  // (N, D)
  bool normalize;
  ScalarType compute;
  bool rounded;  // what rounding loses is returned

  UnitsCall(const Tensor& x, bool normalize) : x(x), normalize(normalize) {
    require(x.defined(), "x is undefined; it must be a tensor.");
    compute = compute_dtype("x", x.scalar_type());
    check("x", x, x.scalar_type(), {kAny, kAny});
    rounded = normalize && compute == ScalarType::Float;
  }
};

// Rows with what is known of them: (N, D), (N or 0, D), (N,) and (words, N).
struct InBatchRows {
  const Tensor &units, &rest, &square, &labels;
};

struct MineOperands {
  const Tensor& tile;
  const OptionalTensor& near;
  const Tensor& stats;
  InBatchRows x, y;
  int64_t first;
  bool own, shared;
  int64_t loss;
  const std::vector<double>& params;
};

struct MineCall : MineOperands {
  ScalarType compute;
  bool triplets, rounded;

  explicit MineCall(const MineOperands& given) : MineOperands(given) {
    const auto chosen = numbered<InBatchLoss>("loss", loss, kInBatchNames);
    triplets = chosen == InBatchLoss::batch_triplet_loss;
    const size_t taken = triplets ? kParameterCount<parameters_of::batch_triplet_loss>
                                  : kParameterCount<parameters_of::batch_contrastive_loss>;
    require(params.size() == taken, kInBatchNames[loss], " takes ", taken, " params; got ",
            params.size(), ".");
    if (triplets) {
      const double mining = named<parameters_of::batch_triplet_loss, double>(params.data()).mining;
      require(mining == 0 || mining == 1 || mining == 2,
              "mining must be 0 (all), 1 (hard) or 2 (semihard); got ", mining, ".");
    }
    compute = compute_dtype_of("tile", tile);
    check("tile", tile, compute, {kAny, kAny});
    const int64_t rows = tile.size(0), columns = tile.size(1);
    rounded = check_rows(x.units, x.rest, y.units, y.rest, compute, columns);
    const int64_t anchors = x.units.size(0);
    check("x_square", x.square, compute, {anchors});
    check("y_square", y.square, compute, {columns});
    check_tile(rows, columns, first, anchors, own);
    check_labels(x.labels, y.labels, anchors, columns, shared);
    check("stats", stats, ScalarType::Double, {anchors, triplets ? 1 : 2, 3});
    if (near) check_near(*near, rows, columns);
  }
};

struct TotalsCall {
  const Tensor& stats;
  ScalarType compute;
  Reduction reduction;

  TotalsCall(const Tensor& stats, const Tensor& like, int64_t number)
      : stats(stats), compute(compute_dtype_of("like", like)) {
    check("stats", stats, ScalarType::Double, {kAny, kAny, 3});
    reduction = numbered<Reduction>("reduction", number, kReductionNames);
    require(reduction == Reduction::kSum || reduction == Reduction::kMean ||
                reduction == Reduction::kNonzero,
            "an in-batch loss has the reductions nonzero, mean and sum alone.");
  }
};

struct WeighOperands {
  const Tensor &tile, &x_labels, &y_labels, &coefficient;
  int64_t first;
  bool own, shared;
  const std::vector<double>& params;
};

struct WeighCall : WeighOperands {
  ScalarType compute;

  explicit WeighCall(const WeighOperands& given) : WeighOperands(given) {
    compute = compute_dtype_of("tile", tile);
    check("tile", tile, compute, {kAny, kAny});
    const int64_t rows = tile.size(0), columns = tile.size(1);
    check("coefficient", coefficient, compute, {2});
    check_labels(x_labels, y_labels, kAny, columns, shared);
    check_tile(rows, columns, first, x_labels.size(1), own);
    require(params.size() == 3, "params must be 3; got ", params.size(), ".");
  }
};

struct NearOperands {
  const Tensor &tile, &near, &x, &x_rest, &y, &y_rest;
  const OptionalTensor &x_grad, &y_grad;
  int64_t first;
  bool radial, dense;
};

struct NearCall : NearOperands {
  ScalarType compute;
  bool rounded;

  explicit NearCall(const NearOperands& given) : NearOperands(given) {
    compute = compute_dtype_of("tile", tile);
    check("tile", tile, compute, {kAny, kAny});
    const int64_t rows = tile.size(0), columns = tile.size(1);
    rounded = check_rows(x, x_rest, y, y_rest, compute, columns);
    if (x_grad) check("x_grad", *x_grad, compute, {x.size(0), x.size(1)});
    if (y_grad) check("y_grad", *y_grad, compute, {columns, x.size(1)});
    check_near(near, rows, columns);
    check_tile(rows, columns, first, x.size(0), false);
  }
};

struct ProjectOperands {
  const Tensor &grad, &units, &reciprocal;
  const OptionalTensor& coefficient;
  double factor;
  bool normalize;
};

struct ProjectCall : ProjectOperands {
  ScalarType compute;

  explicit ProjectCall(const ProjectOperands& given) : ProjectOperands(given) {
    compute = compute_dtype_of("grad", grad);
    check("grad", grad, compute, {kAny, kAny});
    check("units", units, compute, {grad.size(0), grad.size(1)});
    check("reciprocal", reciprocal, compute, {grad.size(0)});
    if (coefficient) check("coefficient", *coefficient, compute, {1});
  }
};

}  // namespace mtlfast
