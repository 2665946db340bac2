// What the in-batch ops on the CPU share: reading tensors, and sharing rows among threads.
#pragma once

#include <limits>

#include "checks.h"
#include "inbatch.h"
#include "partition.h"

namespace mtlfast {

// Calls work(row, scratch) for all rows of `width` elements; each thread's scratch is make()'s.
template <class Make, class Work>
void for_rows(int64_t rows, int64_t width, const Make& make, const Work& work) {
  const int64_t grain = kMinPartition / std::max<int64_t>(width, 1) + 1;
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    auto scratch = make();
    for (int64_t i = begin; i < end; ++i) work(i, scratch);
  });
}

// The same where nothing is needed to work with: work(row).
template <class Work>
void for_rows(int64_t rows, int64_t width, const Work& work) {
  for_rows(rows, width, [] { return 0; }, [&](int64_t i, int) { work(i); });
}

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

template <class F>
const F* read(const Tensor& tensor) {
  return static_cast<const F*>(tensor.const_data_ptr());
}

template <class F>
F* written(const Tensor& tensor) {
  return static_cast<F*>(tensor.mutable_data_ptr());
}

}  // namespace mtlfast
