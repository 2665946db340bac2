// Walking an (N, T) matrix in tiles on the CPU.
//
// A contiguous (N, T) matrix is walked as super-rows of kT elements, k rows side by side, because a
// loop over T = 5 or 40 elements does not vectorise. A tile of a few super-rows is staged in the
// compute type (NaN in the target marks what the mask hides), one plain loop computes it, and sums
// are kept per slot of the super-row and folded onto the T tasks at the end. The split into
// partitions depends on shape and dtype alone, so results repeat bit for bit whatever the number of
// threads.
#pragma once

#include <algorithm>

#include "convert.h"
#include "partition.h"
#include "wide.h"

namespace mtlfast {

constexpr int64_t kTile = 2048;           // elements staged at a time, in L1
constexpr int64_t kSmallTile = 1024;      // of 16-bit logits, staged: they must not crowd out L1
constexpr int64_t kMinWidth = 256;        // shorter super-rows are dominated by the loop's tail
constexpr int64_t kMaxWidth = 2048;       // longer ones crowd the sums out of L1
constexpr int64_t kColumns = 1024;        // of a column tile, where T exceeds kMaxWidth
constexpr int64_t kMaxScratch = 4 << 20;  // bytes

inline int64_t element_size(ScalarType dtype) {
  int64_t size = 0;
  visit_storage(nullptr, dtype, [&](auto* data) { size = sizeof(*data); });
  return size;
}

struct Layout {
  int64_t period;      // k: rows in a super-row
  int64_t width;       // columns in a column tile: T, or kColumns
  int64_t tiles;       // column tiles; period is 1 where there are several
  int64_t partitions;  // of the rows
  int64_t partition;   // rows in one, a multiple of step
  int64_t step;        // rows staged at a time, a multiple of period

  Layout(int64_t rows, int64_t tasks, ScalarType dtype) {
    const int64_t tile = element_size(dtype) == 2 ? kSmallTile : kTile;
    tasks = std::max<int64_t>(tasks, 1);
    period = 1;
    for (int64_t k = 1; k * tasks <= kMaxWidth; ++k) {
      period = k;
      if (tasks >= kMinWidth || (k * tasks >= kMinWidth && k * tasks % 64 == 0)) break;
    }
    width = tasks > kMaxWidth ? kColumns : tasks;
    tiles = divide_up(tasks, width);
    step = period * std::max<int64_t>(1, tile / (period * width));
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
  Rows<const int8_t> labels;  // instead of y, where its data is not null
  bool unit_positives;        // pos_weight is ones
  bool plain;                 // and so is multiplier
  bool hard;                  // every label is 0, 1 or missing
};

inline bool is_wide(Loss loss) {
  bool wide = false;
  visit_loss(loss, [&](auto functor) { wide = functor.kWide; });
  return wide;
}

// Whether the loss has a faster loop for labels that are all 0, 1 or missing.
inline bool gains_from_hard_labels(Loss loss, const Packed<double>& given, ScalarType compute) {
  bool gains = false;
  visit_loss(loss, [&](auto functor) {
    using Functor = decltype(functor);
    if constexpr (HasWhole<Functor>) {
      const Params<Functor, double> k(given);
      const bool sided = compute == ScalarType::Float && OwnSide<Functor>::covers(k);
      gains = sided || (Functor::whole(k, true) && !Functor::whole(k, false));
    }
  });
  return gains;
}

// visit_params of the loss.
template <class F, class Visit>
inline MTLFAST_INLINED void visit_loss(Loss loss, const Packed<double>& given, bool hard,
                                       Visit&& visit) {
  visit_loss(loss, [&](auto functor)
                       MTLFAST_INLINED { visit_params<decltype(functor), F>(given, hard, visit); });
}

// Loops of their own for int8 labels and for tiles without factors: float alone has them. Those for
// double were a quarter of the machine code.
template <class F>
constexpr bool kManyLoops = std::is_same_v<F, float>;

// Whether a label is there: not NaN, and no negative class label.
template <class Functor, class Y>
MTLFAST_INLINE bool is_labelled(Y y) {
  return Functor::kClassification ? y >= Y(0) : y == y;
}
// What a functor sees of it: powers of a missing one could leave the range of their integers.
template <class Functor, class F, class Y>
MTLFAST_INLINE F label_of(Y y, bool labelled) {
  return Functor::kWide && !labelled ? F(0) : F(y);
}

// Labels straight from an int8 target, the fast path, or as F.
template <class Y, class F>
MTLFAST_INLINE const Y* labels_of(const Tile<F>& tile, int64_t r) {
  if constexpr (std::is_same_v<Y, int8_t>) {
    return tile.labels[r];
  } else {
    return tile.y[r];
  }
}

// One loop for both directions: row(functor, params, r, length) once per super-row. kNarrow: such a
// tile never has a wide loss (Stager), whose loops are too long to gain from one of their own.
template <bool kNarrow, class F, class Row>
inline MTLFAST_INLINED void for_super_rows(Loss loss, const Packed<double>& params,
                                           const Tile<F>& tile, Row&& row) {
  visit_loss<F>(loss, params, tile.hard, [&](auto functor, auto k) MTLFAST_INLINED {
    if constexpr (!kNarrow || !decltype(functor)::kWide) {
      for (int64_t r = 0; r * tile.width < tile.size; ++r) {
        row(functor, k, r, std::min(tile.width, tile.size - r * tile.width));
      }
    }
  });
}

// Adds the tile's values and labelled counts to `sums` and `counts`, one slot per column of the
// super-row; kElements also writes them out, times `task_weight`. Without factors (kPlain) a third
// of the loads go away.
template <bool kPlain, bool kElements, class Y, class F>
MTLFAST_CLONES void tile_values(Loss loss, const Packed<double>& params, const Tile<F>& tile,
                                const F* __restrict task_weight, F* __restrict sums,
                                F* __restrict counts, Rows<F> values) {
  const auto row = [&](auto functor, auto k, int64_t r, int64_t length) MTLFAST_INLINED {
    using Functor = decltype(functor);
    using E = NumberOf<decltype(k)>;
    const F* __restrict x = tile.x[r];
    const Y* __restrict y = labels_of<Y>(tile, r);
    const F* __restrict p = tile.pos_weight[r];
    const F* __restrict m = tile.multiplier[r];
    F* __restrict out = values[r];
#pragma omp simd
    for (int64_t j = 0; j < length; ++j) {
      const bool labelled = is_labelled<Functor>(y[j]);
      const E label = evaluated_label<Functor>(E(label_of<Functor, F>(y[j], labelled)), k);
      F value = F(Functor::value(E(x[j]), label, kPlain ? E(1) : E(p[j]), k));
      if constexpr (!kPlain) value *= m[j];
      value = labelled ? value : F(0);
      if constexpr (kElements) out[j] = labelled ? value * task_weight[j] : F(0);
      sums[j] += value;
      counts[j] += labelled ? F(1) : F(0);
    }
  };
  for_super_rows<kPlain || std::is_same_v<Y, int8_t>>(loss, params, tile, row);
}

// kPlain: pos_weight is ones.
template <bool kPlain, class Y, class F>
MTLFAST_CLONES void tile_gradients(Loss loss, const Packed<double>& params, const Tile<F>& tile,
                                   Rows<F> gradients) {
  const auto row = [&](auto functor, auto k, int64_t r, int64_t length) MTLFAST_INLINED {
    using Functor = decltype(functor);
    using E = NumberOf<decltype(k)>;
    const F* __restrict x = tile.x[r];
    const Y* __restrict y = labels_of<Y>(tile, r);
    const F* __restrict p = tile.pos_weight[r];
    const F* __restrict m = tile.multiplier[r];
    F* __restrict out = gradients[r];
#pragma omp simd
    for (int64_t j = 0; j < length; ++j) {
      const bool labelled = is_labelled<Functor>(y[j]);
      const E label = evaluated_label<Functor>(E(label_of<Functor, F>(y[j], labelled)), k);
      const E slope = Functor::grad(E(x[j]), label, kPlain ? E(1) : E(p[j]), k);
      out[j] = labelled ? F(E(m[j]) * slope) : F(0);
    }
  };
  for_super_rows<kPlain || std::is_same_v<Y, int8_t>>(loss, params, tile, row);
}

}  // namespace mtlfast
