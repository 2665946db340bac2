// Staging: the operands of a call, tile by tile, as the loops of tile.h want them.
#pragma once

#include "tile.h"

namespace mtlfast {

// y: NaN where the mask is false, smoothed where a (class) label is present.
template <class F>
MTLFAST_CLONES void prepare_target(const F* y, const F* mask, double smoothing, F* out,
                                   int64_t count) {
  constexpr F kMissing = std::numeric_limits<F>::quiet_NaN();
  const double keep = 1.0 - smoothing, add = 0.5 * smoothing;
  if (smoothing == 0) {
    for (int64_t i = 0; i < count; ++i) out[i] = y[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      out[i] = y[i] >= F(0) ? static_cast<F>(y[i] * keep + add) : kMissing;
    }
  }
  if (mask == nullptr) return;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = mask[i] == F(0) ? kMissing : out[i];
}

// Whether every label is 0, 1 or missing.
template <class F>
MTLFAST_CLONES bool all_hard(const F* y, int64_t count) {
  F soft = 0;
#pragma omp simd reduction(+ : soft)
  for (int64_t i = 0; i < count; ++i) soft += (y[i] > F(0)) & (y[i] != F(1)) ? F(1) : F(0);
  return soft == F(0);
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

// Stages the tiles of one partition. What repeats for every super-row is staged once.
template <class F>
class Stager {
 public:
  // `column_multiplier` (columns,), or null for ones: multiplies every element of its column.
  Stager(const PointwiseCall& call, const Layout& layout, int64_t column, int64_t columns,
         const F* column_multiplier)
      : call_(call),
        width_(layout.period * columns),
        wide_(is_wide(call.loss)),
        smoothing_(wide_ ? 0 : call.params.smoothing()),
        scan_(call.params.smoothing() == 0 &&
              gains_from_hard_labels(call.loss, call.params, call.compute)),
        unit_positives_(!wide_ && !call.pos_weight),
        plain_(unit_positives_ && !call.weight && !call.sample_weight && !column_multiplier) {
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
    Tile<F> tile{size, width_,          {},     {},   {pos_weight_, 0}, {multiplier_, 0},
                 {},   unit_positives_, plain_, false};
    tile.x = stage_rows(call_.logits, where, call_.tasks, width_, call_.compute, x_);
    const bool staged = wide_ || call_.mask || smoothing_ != 0;
    if (kManyLoops<F> && call_.target.dtype == ScalarType::Char && call_.classification &&
        !staged) {
      const int64_t stride = width_ == where.columns ? call_.tasks : width_;
      tile.labels = {
          static_cast<const int8_t*>(call_.target.data) + where.row * call_.tasks + where.column,
          stride};
    } else if (call_.mask || smoothing_ != 0) {
      const F* mask = call_.mask ? stage(call_.mask, where, call_.tasks, scratch_) : nullptr;
      const F* given = stage(call_.target, where, call_.tasks, y_);
      prepare_target(given, mask, smoothing_, y_, size);
      tile.y = {y_, width_};
    } else {
      tile.y = stage_rows(call_.target, where, call_.tasks, width_, call_.compute, y_);
    }
    if (scan_) tile.hard = all_labels_hard(tile);
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

  // One row, or ones where there is none, side by side until the super-row is full.
  void repeat(const F* row, int64_t columns, F* out) const {
    if (row == nullptr) {
      std::fill_n(out, width_, F(1));
      return;
    }
    for (int64_t start = 0; start < width_; start += columns)
      std::copy_n(row, columns, out + start);
  }

 private:
  // Fetches the next tile: column tiles jump from row to row, which the hardware does not foresee;
  // contiguous ones gain a few percent.
  void prefetch(const Rectangle& where) const {
    const int64_t rows = std::min(where.rows, call_.rows - where.row - where.rows);
    if (rows <= 0) return;
    const bool flat = where.columns == call_.tasks;
    for (const Operand* operand : {&call_.logits, &call_.target}) {
      const int64_t bytes = element_size(operand->dtype);
      const int64_t length = where.columns * bytes * (flat ? rows : 1);
      const auto* next = static_cast<const char*>(operand->data) +
                         ((where.row + where.rows) * call_.tasks + where.column) * bytes;
      for (int64_t r = 0; r < (flat ? 1 : rows); ++r, next += call_.tasks * bytes) {
        for (int64_t i = 0; i < length; i += 64) __builtin_prefetch(next + i);
      }
    }
  }

  static bool all_labels_hard(const Tile<F>& tile) {
    bool hard = true;
    for (int64_t r = 0; hard && r * tile.width < tile.size; ++r) {
      hard = all_hard(tile.y[r], std::min(tile.width, tile.size - r * tile.width));
    }
    return hard;
  }

  const PointwiseCall& call_;
  int64_t width_;
  bool wide_;
  double smoothing_;  // what is left to do here: see wide.h
  bool scan_, unit_positives_, plain_;
  F x_[kTile], y_[kTile], pos_weight_[kTile], multiplier_[kTile], product_[kTile], scratch_[kTile],
      second_[kTile];
};

}  // namespace mtlfast
