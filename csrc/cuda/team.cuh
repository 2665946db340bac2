// Sums over a team: threads that work on one row, or rows, together; fewer than a warp or more.
#pragma once

#include "reduce.cuh"

namespace mtlfast {

// Consecutive threads of a block that share a sample: a warp; part of one, where kPart; several,
// where kMany. Every thread of the block calls `sum` and `any`, which another team of its block may
// need.
template <bool kPart, bool kMany>
struct Team {
  int size, rank, number;
  int flip = 0;  // of the two buffers that sums alternate between: one barrier each is enough

  __device__ explicit Team(int size) : size(size) {
    const int thread = thread_number();
    rank = thread % size;
    number = thread / size;
  }
  __device__ int teams() const { return kThreads / size; }

  // Over the threads of the team; each gets the same bits.
  template <int kValues>
  __device__ void sum(float (&total)[kValues]) {
    const auto add = [&](int lane) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) total[i] += __shfl_xor_sync(0xffffffffu, total[i], lane);
    };
    if (!kPart || size >= kLanes) {
#pragma unroll
      for (int lane = kLanes / 2; lane > 0; lane /= 2) add(lane);
    } else {
#pragma unroll 1
      for (int lane = size / 2; lane > 0; lane /= 2) add(lane);
    }
    if constexpr (kMany) {
      if (size > kLanes) add_warps(total);
    }
  }

  // Whether it is so in any thread that `sum` would wait for.
  __device__ bool any(bool here) const {
    if constexpr (kMany) {
      if (size > kLanes) return __syncthreads_or(here);
    }
    return __any_sync(0xffffffffu, here);
  }

 private:
  template <int kValues>
  __device__ void add_warps(float (&total)[kValues]) {
    __shared__ float sums[2][kValues][kWarps];
    flip ^= 1;
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) sums[flip][i][threadIdx.y] = total[i];
    }
    __syncthreads();
    const int warps = size / kLanes, first = number * warps;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      total[i] = 0;
      for (int warp = first; warp < first + warps; ++warp) total[i] += sums[flip][i][warp];
    }
  }
};

template <class Holding>
using TeamOf = Team<Holding::kPart, Holding::kMany>;

}  // namespace mtlfast
