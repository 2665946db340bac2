// How a contiguous (N, T) matrix is laid over the grid.
//
// It is read as super-rows of kT slots, k rows side by side, with k such that every super-row
// starts on a 16-byte boundary; a loop over T = 5 or 40 elements fills no warp. A block owns a tile
// of 32 V consecutive slots (V elements in 16 bytes) and a range of super-rows, a split; its warps
// take super-rows in turn. So a thread meets the same V slots, hence the same tasks, all along its
// loop, and a warp reads 512 consecutive bytes. The layout depends on the shape alone, so that
// results repeat bit for bit, on other GPUs too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "launch.cuh"

namespace mtlfast {

constexpr int64_t kBlocks = 1024;        // about 8 for each of Hopper's 132 multiprocessors
constexpr int64_t kMaxSplits = 64;       // the last block of a tile adds this many partial sums
constexpr int64_t kMaxTiles = 16;        // times kMaxSplits gives kBlocks; more only where T asks
constexpr int64_t kMaxFolded = 1 << 14;  // slots that one block can fold onto tasks in a few us

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Layout {
  int64_t total, tasks;
  int64_t period;      // k
  int64_t width;       // slots in a super-row: period * tasks
  int64_t rows;        // super-rows; the last may be short
  int64_t tiles;       // of the slots; at least 1
  int64_t splits;      // of the super-rows; at least 1
  int64_t split_rows;  // super-rows in a split, a whole number of batches

  int64_t blocks() const { return tiles * splits; }

  // `vector`: elements in 16 bytes. `unroll`: super-rows that a warp loads at once. `folds`: the
  // slots are summed onto tasks in the end, which is serial work where the period is not 1.
  Layout(int64_t samples, int64_t tasks, int vector, int unroll, bool folds)
      : total(samples * tasks), tasks(tasks) {
    const int64_t columns = std::max<int64_t>(tasks, 1), tile = kLanes * vector;
    const int64_t aligned = vector / std::gcd(columns, static_cast<int64_t>(vector));
    // A tile for every 4096 elements, up to kMaxTiles: small inputs want few blocks to finish.
    const int64_t wanted = tile * std::clamp<int64_t>(total >> 12, 1, kMaxTiles);
    const auto idle = [&](int64_t k) {  // share of the lanes beyond the super-row's end
      return static_cast<double>(divide_up(k * columns, tile) * tile) / (k * columns);
    };
    period = aligned * divide_up(wanted, aligned * columns);
    for (int64_t k = period; k * columns <= 2 * wanted; k += aligned) {
      if (idle(k) < idle(period)) period = k;
    }
    if (tasks == 0 || (folds && period * columns > kMaxFolded)) period = 1;
    width = period * tasks;
    rows = divide_up(total, std::max<int64_t>(width, 1));
    tiles = std::max<int64_t>(divide_up(width, tile), 1);
    const int64_t batch = kWarps * unroll;
    const int64_t most = std::clamp<int64_t>(divide_up(rows, batch), 1, kMaxSplits);
    splits = std::min(divide_up(kBlocks, tiles), most);
    split_rows = batch * std::max<int64_t>(divide_up(divide_up(rows, splits), batch), 1);
    splits = std::max<int64_t>(divide_up(rows, split_rows), 1);
  }
};

// A sample and a task.
struct Place {
  int64_t row, column;
};

// Where a thread stands: V slots from `slot`, super-rows `row`, `row + kWarps`, ... below `end`.
template <int V>
struct Lane {
  int64_t tile, split, slot, row, end;
  int left;     // how many of the V slots exist
  Place place;  // of the first slot in super-row 0

  __device__ explicit Lane(const Layout& layout) {
    tile = blockIdx.x % layout.tiles;
    split = blockIdx.x / layout.tiles;
    slot = (tile * kLanes + threadIdx.x) * V;
    const int64_t slots = layout.width - slot;
    left = slots < V ? static_cast<int>(slots) : V;
    row = split * layout.split_rows + threadIdx.y;
    end = min((split + 1) * layout.split_rows, layout.rows);
    if (left <= 0) end = 0;
    place = left > 0 ? Place{slot / layout.tasks, slot % layout.tasks} : Place{0, 0};
  }

  // Elements that the thread has in a super-row: below 1 where there are none.
  __device__ int valid(const Layout& layout, int64_t row) const {
    if (row >= end) return 0;
    const int64_t rest = layout.total - (row * layout.width + slot);
    return rest < left ? static_cast<int>(rest < 0 ? 0 : rest) : left;
  }

  __device__ Place at(const Layout& layout, int64_t row, int j) const {
    const int64_t column = place.column + j, sample = row * layout.period + place.row;
    if (column < layout.tasks) return {sample, column};
    if (layout.tasks >= V) return {sample + 1, column - layout.tasks};
    const auto wraps = static_cast<uint32_t>(column) / static_cast<uint32_t>(layout.tasks);
    return {sample + wraps, column - wraps * layout.tasks};
  }
};

}  // namespace mtlfast
