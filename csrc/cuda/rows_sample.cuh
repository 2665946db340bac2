// A sample of the rows family, as one thread of its team sees it.
//
// The team sums over the rows, squared lengths first where the call normalises, and each of its
// threads then knows the loss and its slopes. Rows that fit stay in registers from the first pass
// to the last; longer ones are read again, mostly from the cache.
#pragma once

#include "rows.cuh"
#include "team.cuh"

namespace mtlfast {

// What is known of a sample's rows and pairs. Where any number of rows may come, each warp has one
// in shared memory, which its first lane fills: registers cannot be indexed.
template <class Holding>
struct Findings {
  static constexpr bool kShared = Holding::kRows == 0;
  static constexpr int kRows = kShared ? kMaxRows : Holding::kRows, kPairs = kShared ? kMaxRows : 3;

  float scale[kRows], tail[kRows];  // u = (scale + tail) x row
  float back[kRows];    // the gradient's factor: scale, or 0 for a row too short to normalise
  float length[kRows];  // |u|^2, where the call normalises
  float along[kRows];   // backward: how much of dL/du points along u
  float distance[kPairs], chain[kPairs], slopes[kPairs];
  float second[kPairs];  // backward, of any number of rows: the sum of slope(t) u_second
  float loss;

  template <class Write>
  __device__ void fill(const Write& write) {
    if constexpr (kShared) __syncwarp();
    if (!kShared || threadIdx.x == 0) write();
    if constexpr (kShared) __syncwarp();
  }
};

// A sample, as one thread of its team sees it.
template <class Row, class Metric, class Holding>
struct Sample {
  static constexpr int V = 16 / sizeof(Row), kRows = Holding::kRows, kChunks = Holding::kChunks;
  static constexpr bool kHeld = kRows > 0;
  using Column = std::conditional_t<kHeld, int, int64_t>;

  const RowsArgs& args;
  Team& team;
  Findings<Holding>& found;
  const int64_t index;
  Packed<Row, V> held[kHeld ? kRows : 1][kHeld ? kChunks : 1];

  __device__ Sample(const RowsArgs& args, Team& team, Findings<Holding>& found, int64_t index)
      : args(args), team(team), found(found), index(index) {
    if constexpr (kHeld) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        each_chunk([&](int chunk, Column column) { held[row][chunk] = read(row, column); });
      }
    }
  }

  __device__ int inputs() const { return kHeld ? kRows : args.call.inputs; }
  __device__ int pairs() const { return kHeld ? kRows * (kRows - 1) / 2 : args.call.pairs; }
  __device__ bool exists(int pair) const { return kRows != 3 || pair < 2 || args.call.swap; }
  __device__ RowPair ends(int pair) const {
    if constexpr (!kHeld) return args.call.pair[pair];
    return pair < kRows - 1 ? RowPair{0, pair + 1} : RowPair{1, 2};
  }

  // Calls step(chunk, column) for each vector of the thread. Held ones may lie beyond the end.
  template <class Step>
  __device__ void each_chunk(const Step& step) const {
    if constexpr (kHeld) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        step(chunk, (chunk * team.size + team.rank) * V);
      }
    } else {
      for (Column column = team.rank * V; column < args.call.width; column += team.size * V) {
        step(0, column);
      }
    }
  }
  __device__ int valid(Column column) const {
    return static_cast<int>(min(static_cast<Column>(args.call.width) - column, Column{V}));
  }
  __device__ Packed<Row, V> read(int row, Column column) const {
    const Operand& operand = args.call.rows[row];
    Packed<Row, V> packed;
    packed.read(operand.data, index * operand.row_stride + column, valid(column),
                args.vector && column < args.call.width);
    return packed;
  }
  // Between passes: the next one decodes what is held again. The compiler would rather keep every
  // element in a register of its own, and spill.
  __device__ void forget() {
    if constexpr (kHeld) {
#pragma unroll
      for (auto& row : held) {
#pragma unroll
        for (auto& packed : row) packed.hide();
      }
    }
  }
  __device__ void elements(int row, int chunk, Column column, float (&x)[V]) const {
    if constexpr (kHeld) {
      held[row][chunk].decode(args.call.dtype, x);
    } else {
      read(row, column).decode(args.call.dtype, x);
    }
  }
  // V elements of u, each rounded once: rows of one element are 1, and equal rows equal.
  __device__ void unit(int row, int chunk, Column column, float (&u)[V]) const {
    elements(row, chunk, column, u);
#pragma unroll
    for (int j = 0; j < V; ++j) u[j] = fmaf(u[j], found.scale[row], u[j] * found.tail[row]);
  }
  // What term and slope are of; 0 beyond the end of the row.
  __device__ void compare(const float (&a)[V], const float (&b)[V], Column column,
                          float (&t)[V]) const {
    const int end = valid(column);
#pragma unroll
    for (int j = 0; j < V; ++j) t[j] = a[j] - b[j] + (j < end ? args.eps : 0.0f);
  }

  // The square of a 16-bit float is exact.
  __device__ static Compensated sum_of_squares(const float (&x)[V]) {
    Compensated sum;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float square = __fmul_rn(x[j], x[j]);
      if constexpr (sizeof(Row) == 4) {
        sum += {square, fmaf(x[j], x[j], -square)};
      } else {
        sum.sum += square;
      }
    }
    return sum;
  }

  __device__ void find_scales() {
    found.fill([&] {
#pragma unroll
      for (int row = 0; row < inputs(); ++row) {
        found.scale[row] = found.back[row] = found.length[row] = 1;
        found.tail[row] = found.along[row] = 0;
      }
    });
    if (!args.call.normalize) return;
    constexpr int kBatch = kHeld ? kRows : 1;
#pragma unroll
    for (int start = 0; start < inputs(); start += kBatch) {
      Compensated sums[kBatch];
      each_chunk([&](int chunk, Column column) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          float x[V];
          elements(start + i, chunk, column, x);
          sums[i] += sum_of_squares(x);
        }
      });
      team.sum(sums);
      found.fill([&] {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const float norm = square_root(sums[i].rounded()),
                      least = static_cast<float>(kSmallestNorm);
          const bool tiny = norm < least;
          const float scale = 1.0f / (tiny ? least : norm);
          found.scale[start + i] = scale;
          found.tail[start + i] = tiny ? 0.0f : sums[i].beyond(scale);
          found.back[start + i] = tiny ? 0.0f : scale;
          found.length[start + i] = tiny ? (norm * scale) * (norm * scale) : 1.0f;
        }
      });
    }
  }

  template <bool kBackward>
  __device__ void find_distances() {
    constexpr int kBatch = kHeld ? kRows * (kRows - 1) / 2 : 1;
    constexpr bool kProducts = kBackward && !kHeld;
#pragma unroll
    for (int start = 0; start < pairs(); start += kBatch) {
      if (!exists(start)) continue;
      Compensated sums[kBatch], products[1];
      each_chunk([&](int chunk, Column column) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          if (!exists(start + i)) continue;
          const auto [first, second] = ends(start + i);
          float a[V], b[V], t[V], sum = 0, product = 0;
          unit(first, chunk, column, a);
          unit(second, chunk, column, b);
          compare(a, b, column, t);
#pragma unroll
          for (int j = 0; j < V; ++j) {
            sum += Metric::term(t[j], args.p);
            if constexpr (kProducts) product += Metric::slope(t[j], args.p) * b[j];
          }
          sums[i] += {sum};
          if constexpr (kProducts) products[0] += {product};
        }
      });
      team.sum(sums);
      if (kProducts && args.call.normalize) team.sum(products);
      found.fill([&] {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const auto distance = Metric::distance(sums[i].rounded(), args.p, args.call.squared);
          found.distance[start + i] = distance.value;
          found.chain[start + i] = distance.chain;
          if constexpr (kProducts) found.second[start + i] = products[0].rounded();
        }
      });
    }
  }

  // The loss before sample_weight, and its slopes.
  __device__ void find_loss() {
    const RowsCall& call = args.call;
    found.fill([&] {
      RowTerms<float> terms{};
      terms.margin = value_of(call.margin, index, args.margin);
      terms.same = value_of<uint8_t>(call.same, index) != 0;
      terms.scale = call.scale != nullptr ? *static_cast<const float*>(call.scale) : 1.0f;
      terms.bias = call.bias != nullptr ? *static_cast<const float*>(call.bias) : 0.0f;
      terms.overlap = found.length[0] + found.length[1];
      terms.gaps = call.margin.data != nullptr ? nullptr : args.gaps;
      terms.levels = inputs() - 1;
      visit_rows_loss(call, [&](auto functor) {
        found.loss = functor.value(found.distance, terms, found.slopes);
      });
    });
  }

  template <bool kBackward>
  __device__ void find() {
    find_scales();
    forget();
    find_distances<kBackward>();
    forget();
    find_loss();
  }

  __device__ float weight() const { return value_of(args.call.sample_weight, index, 1.0f); }
};

}  // namespace mtlfast
