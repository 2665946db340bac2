// Sums in a fixed order: over the warps of a block, over a block's threads as a tree; over blocks,
// in the next kernel. No float atomics, so results repeat bit for bit.
#pragma once

#include "layout.cuh"

namespace mtlfast {

// Sums of a slot or of a task.
struct Totals {
  double loss = 0, weight = 0;
  int64_t count = 0;

  __device__ Totals& operator+=(const Totals& other) {
    loss += other.loss;
    weight += other.weight;
    count += other.count;
    return *this;
  }
};

__device__ inline int thread_number() { return threadIdx.y * kLanes + threadIdx.x; }
__device__ inline int block_threads() { return blockDim.y * kLanes; }

// Shared memory: each warp's sums for the slots of its tile, index 32 j + lane for element j of a
// lane, so that a warp meets no bank twice. Float sums come here after kRun super-rows: longer runs
// of equal values drift (ln 2 added 2048 times in float32 is 1.6e-6 off), and a double in registers
// would cost V of them for the whole loop.
template <int V, bool kWeighted>
struct Cells {
  static constexpr int kSlots = kLanes * V;
  double loss[kWarps][kSlots];
  double weight[kWeighted ? kWarps : 1][kWeighted ? kSlots : 1];
  uint32_t count[kWarps][kSlots];

  __device__ static int index(int j) { return kLanes * j + threadIdx.x; }
  // The slot, within the tile, that an index belongs to.
  __device__ static int slot(int index) { return index % kLanes * V + index / kLanes; }

  __device__ void put(int j, double loss_sum, double weight_sum, uint32_t labelled) {
    loss[threadIdx.y][index(j)] = loss_sum;
    if constexpr (kWeighted) weight[threadIdx.y][index(j)] = weight_sum;
    count[threadIdx.y][index(j)] = labelled;
  }
  // Reads all before it writes any: one wait for shared memory, not V.
  __device__ void add(const float (&losses)[V], const float (&weights)[V],
                      const uint32_t (&counts)[V / 4], bool first) {
    double old_loss[V] = {}, old_weight[V] = {};
    uint32_t old_count[V] = {};
#pragma unroll
    for (int j = 0; j < V && !first; ++j) {
      old_loss[j] = loss[threadIdx.y][index(j)];
      old_weight[j] = kWeighted ? weight[kWeighted ? threadIdx.y : 0][kWeighted ? index(j) : 0] : 0;
      old_count[j] = count[threadIdx.y][index(j)];
    }
#pragma unroll
    for (int j = 0; j < V; ++j) {
      put(j, old_loss[j] + static_cast<double>(losses[j]),
          old_weight[j] + static_cast<double>(weights[j]),
          old_count[j] + (counts[j / 4] >> 8 * (j % 4) & 0xffu));
    }
  }

  // Over the warps, for the index that is the thread's own number; needs a barrier before it.
  __device__ Totals combine(int index) const {
    Totals sum;
    if (index >= kSlots) return sum;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      sum.loss += loss[warp][index];
      if constexpr (kWeighted) sum.weight += weight[warp][index];
      sum.count += count[warp][index];
    }
    return sum;
  }
};

// What a loss is a quotient of. Counts are exact as doubles.
struct Scalars {
  double loss = 0, divisor = 0;

  __device__ Scalars& operator+=(const Scalars& other) {
    loss += other.loss;
    divisor += other.divisor;
    return *this;
  }
};

__device__ inline Scalars warp_sum(Scalars mine) {
#pragma unroll 1
  for (int lane = kLanes / 2; lane > 0; lane /= 2) {
    mine.loss += __shfl_xor_sync(0xffffffffu, mine.loss, lane);
    mine.divisor += __shfl_xor_sync(0xffffffffu, mine.divisor, lane);
  }
  return mine;
}

// Over the threads of a block; each gets the sum.
__device__ inline Scalars block_sum(Scalars mine) {
  __shared__ Scalars of_warps[kLanes];
  mine = warp_sum(mine);
  __syncthreads();
  if (threadIdx.x == 0) of_warps[threadIdx.y] = mine;
  __syncthreads();
  return warp_sum(threadIdx.x < blockDim.y ? of_warps[threadIdx.x] : Scalars());
}

}  // namespace mtlfast
