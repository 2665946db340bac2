// Sums over a team: threads that work on one row, or rows, together; fewer than a warp or more.
#pragma once

#include "reduce.cuh"

namespace mtlfast {

// A sum and what rounding took from it, for all but the few elements of a vector: a triplet loss is
// the difference of two distances, and shows every bit that they lost. Either order of two sums
// gives the same bits.
struct Compensated {
  float sum = 0, rest = 0;

  __device__ Compensated& operator+=(const Compensated& other) {
    const float total = sum + other.sum, added = total - sum;
    const float lost = (sum - (total - added)) + (other.sum - added);
    rest = (rest + other.rest) + lost;
    sum = total;
    return *this;
  }
  // What 1 / sqrt, in twice the digits, has beyond `root`, its float.
  __device__ float beyond(float root) const {
    const float square = root * root;
    const float left = fmaf(-sum, square, 1.0f) - sum * fmaf(root, root, -square) - rest * square;
    return left == left ? 0.5f * root * left : 0.0f;
  }
  __device__ float rounded() const { return rest == rest ? sum + rest : sum; }  // inf stays inf
};

// Consecutive threads of a block that share a sample. Every thread of the block calls `sum`.
struct Team {
  int size, rank, number;
  int flip = 0;  // of the two buffers that sums alternate between: one barrier each is enough

  __device__ explicit Team(int size) : size(size) {
    const int thread = threadIdx.y * kLanes + threadIdx.x;
    rank = thread % size;
    number = thread / size;
  }
  __device__ int teams() const { return kThreads / size; }

  // Over the threads of the team; each gets the same bits.
  template <int kValues>
  __device__ void sum(Compensated (&total)[kValues]) {
    for (int lane = min(size, kLanes) / 2; lane > 0; lane /= 2) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        Compensated other;
        other.sum = __shfl_xor_sync(0xffffffffu, total[i].sum, lane);
        other.rest = __shfl_xor_sync(0xffffffffu, total[i].rest, lane);
        total[i] += other;
      }
    }
    if (size > kLanes) add_warps(total);
  }

  template <int kValues>
  __device__ void add_warps(Compensated (&total)[kValues]) {
    __shared__ float sums[2][kValues][kWarps], rests[2][kValues][kWarps];
    flip ^= 1;
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        sums[flip][i][threadIdx.y] = total[i].sum;
        rests[flip][i][threadIdx.y] = total[i].rest;
      }
    }
    __syncthreads();
    const int warps = size / kLanes, first = number * warps;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      total[i] = {};
      for (int warp = first; warp < first + warps; ++warp) {
        total[i] += {sums[flip][i][warp], rests[flip][i][warp]};
      }
    }
  }
};

}  // namespace mtlfast
