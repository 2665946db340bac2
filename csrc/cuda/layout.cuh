// How a contiguous (N, T) matrix is laid over the grid.
//
// It is read as super-rows of kT slots, k rows side by side, with k such that every super-row
// starts on a 16-byte boundary, since rows of T = 5 or 40 elements would not fill a warp. A block
// owns a tile of 32 V consecutive slots (V elements in 16 bytes) and a range of super-rows, a
// split; its warps take super-rows in turn. So a thread meets the same V slots, hence the same
// tasks, all along its loop, and a warp reads 512 consecutive bytes. The layout depends on the
// shape alone, so that results repeat bit for bit, on other GPUs too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "launch.cuh"

namespace mtlfast {

constexpr int64_t kBlocks = 1056;        // 8 for each of Hopper's 132 multiprocessors
constexpr int64_t kMaxTiles = 16;        // more only where T asks
constexpr int64_t kMaxFolded = 1 << 14;  // slots that one block may have to fold onto tasks
constexpr int64_t kShortSplits = 8;      // where there are more tiles than blocks should be
constexpr int64_t kSector = 32;          // bytes that memory hands out at once

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Layout {
  int64_t total, tasks;
  int vector;          // V
  int64_t period;      // k
  int64_t width;       // slots in a super-row: period * tasks
  int64_t rows;        // super-rows; the last may be short
  int64_t tiles;       // of the slots; at least 1
  int64_t splits;      // of the super-rows; at least 1
  int64_t split_rows;  // super-rows in a split, whole batches where it has more than one

  int64_t blocks() const { return tiles * splits; }

  // `vector`: elements in 16 bytes. `unroll`: super-rows that a warp loads at once. `sums`: the
  // slots are summed onto tasks in the end, which is serial work where the period is not 1.
  Layout(int64_t samples, int64_t tasks, int vector, int unroll, bool sums)
      : total(samples * tasks), tasks(tasks), vector(vector) {
    const int64_t columns = std::max<int64_t>(tasks, 1), tile = kLanes * vector;
    const int64_t aligned = vector / std::gcd(columns, static_cast<int64_t>(vector));
    // As many tiles as leave each warp a super-row: of small inputs there are few slots to fold.
    const int64_t wanted = tile * std::clamp<int64_t>(total / (tile * kWarps), 1, kMaxTiles);
    // What lanes beyond a super-row's end cost, and bytes of labels that begin within a sector.
    const auto cost = [&](int64_t k) {
      const double idle = static_cast<double>(divide_up(k * columns, tile) * tile) / (k * columns);
      return k * columns % kSector == 0 ? idle : idle + 0.05;
    };
    period = aligned * divide_up(wanted, aligned * columns);
    const int64_t widest =
        sums ? 2 * wanted : std::max(2 * wanted, std::min(kMaxFolded, total / (32 * kWarps)));
    double best = cost(period);
    for (int64_t k = period; best > 1 && k * columns <= widest; k += aligned) {
      if (cost(k) < best) period = k, best = cost(k);
    }
    // Long rows that don't start aligned: reading them one by one costs less than folding them.
    if (tasks == 0 || (sums && period * columns > kMaxFolded)) period = 1;
    width = period * tasks;
    rows = divide_up(total, std::max<int64_t>(width, 1));
    tiles = std::max<int64_t>(divide_up(width, tile), 1);
    // Half of them where one block adds up what the others found: they are all there at once, and
    // each warp has a whole batch.
    const int64_t blocks = sums ? kBlocks / 2 : kBlocks, least = kWarps * (sums ? unroll : 1);
    const int64_t most = std::clamp<int64_t>(divide_up(rows, least), 1, blocks / kMaxTiles);
    const int64_t shorter = std::min(kShortSplits, rows / (8 * least));
    splits = std::clamp<int64_t>(std::max(blocks / tiles, shorter), 1, most);
    const int64_t each = std::max<int64_t>(divide_up(rows, splits), 1);
    const int64_t batch = each < kWarps * unroll ? kWarps : kWarps * unroll;
    split_rows = divide_up(each, batch) * batch;
    splits = std::max<int64_t>(divide_up(rows, split_rows), 1);
  }
};

// Where a thread stands: V slots from `slot`, super-rows `row`, `row + kWarps`, ... below `end`.
template <int V>
struct Lane {
  int64_t tile, split, slot;
  int64_t sample, column;  // of the first slot in super-row 0
  int row, end;
  int full;  // below it, super-rows are complete and may be read as vectors
  int left;  // how many of the V slots exist
  int last;  // and how many in the last super-row
  int own;   // how many of the V slots are of the first one's row

  // `vector`: the data are aligned.
  __device__ Lane(const Layout& layout, bool vector) {
    tile = blockIdx.x % layout.tiles;
    split = blockIdx.x / layout.tiles;
    slot = (tile * kLanes + threadIdx.x) * V;
    const auto clip = [](int64_t count) { return static_cast<int>(count < V ? count : V); };
    const int64_t rest = layout.total - (layout.rows - 1) * layout.width;
    left = layout.width > slot ? clip(layout.width - slot) : 0;
    last = rest > slot ? clip(rest - slot) : 0;
    row = static_cast<int>(split * layout.split_rows) + threadIdx.y;
    end = static_cast<int>(min((split + 1) * layout.split_rows, layout.rows));
    if (left == 0) end = 0;
    full = vector && left == V ? min(end, static_cast<int>(layout.rows) - (last < V ? 1 : 0)) : 0;
    sample = left > 0 ? slot / layout.tasks : 0;
    column = left > 0 ? slot % layout.tasks : 0;
    own = left > 0 ? static_cast<int>(min(layout.tasks - column, int64_t{V})) : V;
  }

  // Elements that the thread has in a super-row.
  __device__ int valid(const Layout& layout, int row) const {
    if (row < full) return V;
    if (row >= end) return 0;
    return row == layout.rows - 1 ? last : left;
  }
};

// How an (N, T) operand is read: as vectors; once for all rows; once for each row; or one by one.
enum class Reach : int8_t { kVectors, kColumns, kRows, kElements };

// An (N, T) operand, or null data.
struct Strided {
  const void* data;
  int64_t row_stride, column_stride;
  int64_t step;  // from super-row to super-row
  Reach reach;
};

// Walks an operand along a thread's V elements of one super-row, from row to row of the matrix.
template <int V>
struct Cursor {
  int64_t offset, step, jump;
  int until, period;  // elements to the end of this row, and in a whole one, at most V + 1

  __device__ Cursor(const Strided& operand, const Layout& layout, const Lane<V>& lane, int row)
      : offset((row * layout.period + lane.sample) * operand.row_stride +
               lane.column * operand.column_stride),
        step(operand.column_stride),
        jump(operand.row_stride - (layout.tasks - 1) * operand.column_stride),
        until(static_cast<int>(min(layout.tasks - lane.column, static_cast<int64_t>(V + 1)))),
        period(static_cast<int>(min(layout.tasks, static_cast<int64_t>(V + 1)))) {}

  __device__ void next() {
    const bool wrap = --until == 0;
    offset += wrap ? jump : step;
    if (wrap) until = period;
  }
};

}  // namespace mtlfast
