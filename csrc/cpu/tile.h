// Walking an (N, T) matrix in tiles on the CPU.
//
// A contiguous (N, T) matrix is walked as super-rows of kT elements, k rows side by side, because a
// loop over T = 5 or 40 elements does not vectorise. A tile of a few super-rows is staged in the
// compute type (NaN in the target marks a missing label), one plain loop computes it, and sums are
// kept per slot of the super-row and folded onto the T tasks at the end. The split into partitions
// depends on the shape alone, so results repeat bit for bit whatever the number of threads.
#pragma once

#include <algorithm>

#include "convert.h"
#include "partition.h"

namespace mtlfast {

constexpr int64_t kTile = 4096;           // elements staged at a time, in L1 and L2
constexpr int64_t kMinWidth = 256;        // shorter super-rows are dominated by the loop's tail
constexpr int64_t kMaxWidth = 2048;       // longer ones crowd the sums out of L1
constexpr int64_t kColumns = 1024;        // of a column tile, where T exceeds kMaxWidth
constexpr int64_t kMaxScratch = 4 << 20;  // bytes

struct Layout {
  int64_t period;      // k: rows in a super-row
  int64_t width;       // columns in a column tile: T, or kColumns
  int64_t tiles;       // column tiles; period is 1 where there are several
  int64_t partitions;  // of the rows
  int64_t partition;   // rows in one, a multiple of step
  int64_t step;        // rows staged at a time, a multiple of period

  Layout(int64_t rows, int64_t tasks) {
    tasks = std::max<int64_t>(tasks, 1);
    period = 1;
    for (int64_t k = 1; k * tasks <= kMaxWidth; ++k) {
      period = k;
      if (tasks >= kMinWidth || (k * tasks >= kMinWidth && k * tasks % 64 == 0)) break;
    }
    width = tasks > kMaxWidth ? kColumns : tasks;
    tiles = divide_up(tasks, width);
    step = period * std::max<int64_t>(1, kTile / (period * width));
    const int64_t most = std::min(kMaxPartitions / tiles, kMaxScratch / (24 * tasks));
    const int64_t wanted = std::min(rows * width / kMinPartition, most);
    const int64_t steps = divide_up(divide_up(rows, std::max<int64_t>(wanted, 1)), step);
    partition = step * std::max<int64_t>(steps, 1);
    partitions = std::max<int64_t>(divide_up(rows, partition), 1);
  }

  // Calls work(partition, columns) for every partition of every column tile, in parallel.
  template <class Work>
  void parallel(int64_t rows, int64_t tasks, const Work& work) const {
    for_partitions(partitions * tiles, std::min(partition, rows) * width, [&](int64_t i) {
      const int64_t column = i % tiles * width;
      work(i / tiles, column, std::min(width, tasks - column));
    });
  }

  // Calls work(rectangle) for the pieces of one partition, in order.
  template <class Work>
  void walk(int64_t rows, int64_t index, int64_t column, int64_t columns, const Work& work) const {
    const int64_t end = std::min(rows, (index + 1) * partition);
    for (int64_t row = index * partition; row < end; row += step) {
      work(Rectangle{row, std::min(step, end - row), column, columns});
    }
  }
};

// A tile as super-rows of `width` elements, the last one possibly shorter.
template <class F>
struct Tile {
  int64_t size, width;
  Rows<const F> x, y, pos_weight, multiplier;
  Rows<const int8_t> labels;  // instead of y, where its data is not null: negative is missing
  bool plain;                 // pos_weight and multiplier are ones
};

// Loops of their own for int8 labels and for tiles without factors: float alone has them. Those for
// double were a quarter of the machine code.
template <class F>
constexpr bool kManyLoops = std::is_same_v<F, float>;

// Labels straight from an int8 target, the fast path, or staged as F with NaN for missing.
template <class F>
MTLFAST_INLINE bool is_labelled(F y) {
  return y == y;
}
template <>
MTLFAST_INLINE bool is_labelled(int8_t y) {
  return y >= 0;
}

template <class Y, class F>
MTLFAST_INLINE const Y* labels_of(const Tile<F>& tile, int64_t r) {
  if constexpr (std::is_same_v<Y, int8_t>) {
    return tile.labels[r];
  } else {
    return tile.y[r];
  }
}

// One loop for both directions: row(functor, params, r, length) once per super-row.
template <class F, class Row>
inline MTLFAST_INLINED void for_super_rows(Loss loss, const Params<double>& params,
                                           const Tile<F>& tile, Row&& row) {
  visit_loss<F>(loss, params, [&](auto functor, auto k) MTLFAST_INLINED {
    for (int64_t r = 0; r * tile.width < tile.size; ++r) {
      row(functor, k, r, std::min(tile.width, tile.size - r * tile.width));
    }
  });
}

// Adds the tile's values and labelled counts to `sums` and `counts`, one slot per column of the
// super-row; kElements also writes them out. Without factors (kPlain) a third of the loads go away.
template <bool kPlain, bool kElements, class Y, class F>
MTLFAST_CLONES void tile_values(Loss loss, const Params<double>& params, const Tile<F>& tile,
                                F* __restrict sums, F* __restrict counts, Rows<F> values) {
  const auto row = [&](auto functor, auto k, int64_t r, int64_t length) MTLFAST_INLINED {
    using Functor = decltype(functor);
    using E = Evaluated<Functor, F>;
    const F* __restrict x = tile.x[r];
    const Y* __restrict y = labels_of<Y>(tile, r);
    const F* __restrict p = tile.pos_weight[r];
    const F* __restrict m = tile.multiplier[r];
    F* __restrict out = values[r];
#pragma omp simd
    for (int64_t j = 0; j < length; ++j) {
      const bool labelled = is_labelled(y[j]);
      F value = F(Functor::value(E(x[j]), E(F(y[j])), kPlain ? E(1) : E(p[j]), k));
      if constexpr (!kPlain) value *= m[j];
      value = labelled ? value : F(0);
      if constexpr (kElements) out[j] = value;
      sums[j] += value;
      counts[j] += labelled ? F(1) : F(0);
    }
  };
  for_super_rows(loss, params, tile, row);
}

template <class Y, class F>
MTLFAST_CLONES void tile_gradients(Loss loss, const Params<double>& params, const Tile<F>& tile,
                                   Rows<F> gradients) {
  const auto row = [&](auto functor, auto k, int64_t r, int64_t length) MTLFAST_INLINED {
    using Functor = decltype(functor);
    using E = Evaluated<Functor, F>;
    const F* __restrict x = tile.x[r];
    const Y* __restrict y = labels_of<Y>(tile, r);
    const F* __restrict p = tile.pos_weight[r];
    const F* __restrict m = tile.multiplier[r];
    F* __restrict out = gradients[r];
#pragma omp simd
    for (int64_t j = 0; j < length; ++j) {
      const F gradient = F(m[j] * Functor::grad(E(x[j]), E(F(y[j])), E(p[j]), k));
      out[j] = is_labelled(y[j]) ? gradient : F(0);
    }
  };
  for_super_rows(loss, params, tile, row);
}

// y: NaN where the mask is false or the label negative, smoothed otherwise.
template <class F>
MTLFAST_CLONES void prepare_target(const F* y, const F* mask, bool negative_is_missing,
                                   double smoothing, F* out, int64_t count) {
  constexpr F kMissing = std::numeric_limits<F>::quiet_NaN();
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = negative_is_missing && y[i] < F(0) ? kMissing : y[i];
  if (smoothing != 0) {
    const double keep = 1.0 - smoothing, add = 0.5 * smoothing;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<F>(out[i] * keep + add);
  }
  if (mask == nullptr) return;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = mask[i] == F(0) ? kMissing : out[i];
}

// out *= a * b, rounded once; b may be null.
template <class F>
MTLFAST_CLONES void multiply(const F* a, const F* b, F* __restrict out, int64_t count) {
  if (b == nullptr) {
    for (int64_t i = 0; i < count; ++i) out[i] *= a[i];
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<F>(double{out[i]} * a[i] * b[i]);
  }
}

template <class F>
MTLFAST_CLONES void add_labelled(const F* y, const F* weight, F* __restrict sums, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums[i] += y[i] == y[i] ? weight[i] : F(0);
}

inline int64_t element_size(ScalarType dtype) {
  int64_t size = 0;
  visit_storage(nullptr, dtype, [&](auto* data) { size = sizeof(*data); });
  return size;
}

// Stages the tiles of one partition. What repeats for every super-row is staged once.
template <class F>
class Stager {
 public:
  // `column_multiplier` (columns,), or null for ones: multiplies every element of its column.
  Stager(const PointwiseCall& call, const Layout& layout, int64_t column, int64_t columns,
         const F* column_multiplier)
      : call_(call),
        width_(layout.period * columns),
        plain_(!call.pos_weight && !call.weight && !call.sample_weight && !column_multiplier) {
    const F* weight = nullptr;
    if (call.pos_weight && call.pos_weight.row_stride == 0) {
      weight = stage(call.pos_weight, Rectangle{0, 1, column, columns}, call.tasks, x_);
    }
    repeat(weight, columns, pos_weight_);
    repeat(column_multiplier, columns, multiplier_);
  }

  Tile<F> operator()(const Rectangle& where) {
    const int64_t size = where.size();
    prefetch(where);
    Tile<F> tile{size, width_, {}, {}, {pos_weight_, 0}, {multiplier_, 0}, {}, plain_};
    tile.x = stage_rows(call_.logits, where, call_.tasks, width_, call_.compute, x_);
    const bool staged = call_.mask || call_.params[0] != 0;
    if (kManyLoops<F> && call_.target.dtype == ScalarType::Char && call_.negative_is_missing &&
        !staged) {
      const int64_t stride = width_ == where.columns ? call_.tasks : width_;
      tile.labels = {
          static_cast<const int8_t*>(call_.target.data) + where.row * call_.tasks + where.column,
          stride};
    } else if (call_.mask || call_.negative_is_missing || call_.params[0] != 0) {
      const F* mask = call_.mask ? stage(call_.mask, where, call_.tasks, scratch_) : nullptr;
      const F* given = stage(call_.target, where, call_.tasks, y_);
      prepare_target(given, mask, call_.negative_is_missing, call_.params[0], y_, size);
      tile.y = {y_, width_};
    } else {
      tile.y = stage_rows(call_.target, where, call_.tasks, width_, call_.compute, y_);
    }
    if (call_.pos_weight && call_.pos_weight.row_stride != 0) {
      tile.pos_weight = {stage(call_.pos_weight, where, call_.tasks, pos_weight_), width_};
    }
    const bool both = call_.weight && call_.sample_weight;
    if (call_.weight || call_.sample_weight) {
      const Operand& first = call_.weight ? call_.weight : call_.sample_weight;
      const F* a = stage(first, where, call_.tasks, scratch_);
      const F* b = both ? stage(call_.sample_weight, where, call_.tasks, second_) : nullptr;
      multiply(a, b, spread(tile), size);
    }
    return tile;
  }

  // The tile's multiplier, one value per element, to be changed in place.
  F* spread(Tile<F>& tile) {
    if (tile.multiplier.stride == 0) {
      for (int64_t start = 0; start < tile.size; start += width_) {
        std::copy_n(multiplier_, std::min(width_, tile.size - start), product_ + start);
      }
      tile.multiplier = {product_, width_};
    }
    return product_;
  }

 private:
  // The next tile. Staging reads a whole tile at once, faster than the hardware foresees (8192 x
  // 1000, int8: 15 % of the forward), and column tiles jump from row to row (64 x 40000: 30 %).
  void prefetch(const Rectangle& where) const {
    for (const Operand* operand : {&call_.logits, &call_.target}) {
      const int64_t bytes = element_size(operand->dtype);
      const auto* next = static_cast<const char*>(operand->data) +
                         ((where.row + where.rows) * call_.tasks + where.column) * bytes;
      const int64_t rows = std::min(where.rows, call_.rows - where.row - where.rows);
      for (int64_t r = 0; r < rows; ++r, next += call_.tasks * bytes) {
        for (int64_t i = 0; i < where.columns * bytes; i += 64) __builtin_prefetch(next + i);
      }
    }
  }

  // One row, or ones where there is none, side by side until the super-row is full.
  void repeat(const F* row, int64_t columns, F* out) const {
    if (row == nullptr) {
      std::fill_n(out, width_, F(1));
      return;
    }
    for (int64_t start = 0; start < width_; start += columns)
      std::copy_n(row, columns, out + start);
  }

  const PointwiseCall& call_;
  int64_t width_;
  bool plain_;
  F x_[kTile], y_[kTile], pos_weight_[kTile], multiplier_[kTile], product_[kTile], scratch_[kTile],
      second_[kTile];
};

}  // namespace mtlfast
