// What the in-batch ops on the CPU share: reading tensors, and sharing rows among threads.
#pragma once

#include "checks.h"
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

inline void check(const char* name, const Tensor& tensor, ScalarType dtype,
                  std::initializer_list<int64_t> sizes) {
  bool right = tensor.scalar_type() == dtype && tensor.is_contiguous() &&
               tensor.dim() == static_cast<int64_t>(sizes.size());
  for (int64_t i = 0; right && i < tensor.dim(); ++i) right = tensor.size(i) == sizes.begin()[i];
  require(right, name, " must be contiguous, of the shape and dtype that the op asks for.");
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
