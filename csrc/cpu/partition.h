// Splitting work among threads on the CPU, by its size alone, so that results repeat bit for bit
// whatever the number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace mtlfast {

constexpr int64_t kMinPartition = 1 << 14;  // less work than this is not worth another thread
constexpr int64_t kMaxPartitions = 64;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls work(index) for every partition, each of `size` elements, in parallel.
template <class Work>
void for_partitions(int64_t partitions, int64_t size, const Work& work) {
  const auto range = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) work(i);
  };
  if (partitions == 1) return range(0, 1);
  const int64_t grain = divide_up(kMinPartition, std::max<int64_t>(size, 1));
  torch::stable::parallel_for(0, partitions, grain, range);
}

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

}  // namespace mtlfast
