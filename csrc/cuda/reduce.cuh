// Sums in a fixed order: over the warps of a block, over blocks through tickets, over a block's
// threads as a tree. No float atomics, so results repeat bit for bit.
#pragma once

#include "layout.cuh"

namespace mtlfast {

// Sums of a slot, of a task, or of everything.
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

  __device__ void clear() {
#pragma unroll
    for (int j = 0; j < V; ++j) put(j, 0, 0, 0);
  }
  __device__ void put(int j, double loss_sum, double weight_sum, uint32_t labelled) {
    loss[threadIdx.y][index(j)] = loss_sum;
    if constexpr (kWeighted) weight[threadIdx.y][index(j)] = weight_sum;
    count[threadIdx.y][index(j)] = labelled;
  }
  // Reads all before it writes any: one wait for shared memory, not V.
  __device__ void add(const float (&losses)[V], const float (&weights)[V],
                      const uint32_t (&counts)[V / 4]) {
    double old_loss[V], old_weight[V];
    uint32_t old_count[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
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

// The sums of one block, in memory: (tiles, splits, slots of a tile).
struct Partials {
  float *loss, *weight;  // weight is null where it is not asked for
  uint32_t* count;

  template <int V, bool kWeighted>
  __device__ void store(int64_t block, int index, const Totals& sum) const {
    constexpr int kSlots = Cells<V, kWeighted>::kSlots;
    if (index >= kSlots) return;
    loss[block * kSlots + index] = static_cast<float>(sum.loss);
    if constexpr (kWeighted) weight[block * kSlots + index] = static_cast<float>(sum.weight);
    count[block * kSlots + index] = static_cast<uint32_t>(sum.count);
  }

  // Adds `splits` consecutive blocks, from `first` on, into the cells, each warp its share.
  template <int V, bool kWeighted>
  __device__ void gather(int64_t first, int splits, Cells<V, kWeighted>& cells) const {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const int index = Cells<V, kWeighted>::index(j);
      double loss_sum = 0, weight_sum = 0;
      uint32_t labelled = 0;
#pragma unroll 4
      for (int split = threadIdx.y; split < splits; split += kWarps) {
        const int64_t at = (first + split) * Cells<V, kWeighted>::kSlots + index;
        loss_sum += static_cast<double>(loss[at]);
        if constexpr (kWeighted) weight_sum += static_cast<double>(weight[at]);
        labelled += count[at];
      }
      cells.put(j, loss_sum, weight_sum, labelled);
    }
  }
};

// True in the block that draws the last of `participants` tickets: it sees what the others wrote
// before. One thread's fence after a barrier covers its whole block, as in cooperative groups'
// grid barrier.
__device__ inline bool is_last(uint32_t* ticket, int64_t participants) {
  __shared__ bool last;
  __syncthreads();
  if (participants == 1) return true;
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    __threadfence();
    last = atomicAdd(ticket, 1u) == static_cast<uint32_t>(participants - 1);
    __threadfence();
  }
  __syncthreads();
  return last;
}

// Over groups of `width` threads: thread t < width gets the sum over threads t, t + width, ... of
// the first `groups` (a power of two) groups. `scratch` holds kThreads Totals.
__device__ inline Totals tree_sum(const Totals& mine, int width, int groups, Totals* scratch) {
  const int thread = threadIdx.y * kLanes + threadIdx.x;
  __syncthreads();
  scratch[thread] = mine;
  __syncthreads();
  for (int half = groups / 2; half > 0; half /= 2) {
    if (thread < half * width) scratch[thread] += scratch[thread + half * width];
    __syncthreads();
  }
  return scratch[thread % width];
}

// Where there are several blocks: true in the last one, whose threads then hold all blocks' sums
// between them. `totals`: one for each block.
__device__ inline bool gather_blocks(Totals& mine, int64_t block, int64_t blocks, Totals* totals,
                                     uint32_t* ticket, Totals* scratch) {
  if (blocks == 1) return true;
  const int thread = threadIdx.y * kLanes + threadIdx.x;
  mine = tree_sum(mine, 1, kThreads, scratch);
  if (thread == 0) totals[block] = mine;
  if (!is_last(ticket, blocks)) return false;
  mine = Totals();
#pragma unroll 4
  for (int64_t i = thread; i < blocks; i += kThreads) mine += totals[i];
  return true;
}

}  // namespace mtlfast
