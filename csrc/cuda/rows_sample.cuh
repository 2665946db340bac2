// A sample of the rows family, as one thread of its team sees it.
//
// The team sums over the rows, and each of its threads then knows the loss and its slopes. Rows
// that fit stay in registers from the first pass to the last; longer ones are read again, mostly
// from the cache. Held rows that the call normalises take one round of sums, their products with
// each other: distances and gradients follow, to float's digits, unless two rows are near each
// other. Then, and for all else, differences are summed.
#pragma once

#include "rows_findings.cuh"
#include "team.cuh"

namespace mtlfast {

// Below this squared distance of unit rows, 2 - 2 cos and what follows from it lose digits.
constexpr float kNear = 0.5f;

// A sample, as one thread of its team sees it.
template <class Row, class Metric, class Holding>
struct Sample {
  static constexpr int V = 16 / sizeof(Row), kRows = Holding::kRows, kChunks = Holding::kChunks;
  static constexpr bool kHeld = kRows > 0, kUnit = Holding::kUnit;
  static constexpr int kPairs = kRows * (kRows - 1) / 2;
  using Column = std::conditional_t<kHeld, int, int64_t>;

  const RowsArgs& args;
  TeamOf<Holding>& team;
  Findings<Holding>& found;
  const int64_t index;
  Vector<Row, V> held[kHeld ? kRows : 1][kHeld ? kChunks : 1];

  __device__ Sample(const RowsArgs& args, TeamOf<Holding>& team, Findings<Holding>& found,
                    int64_t index)
      : args(args), team(team), found(found), index(index) {
    if constexpr (kHeld) {
      // One branch before all loads, so that they are all on their way at once.
      args.vector ? hold<true>() : hold<false>();
    }
  }
  template <bool kVector>
  __device__ void hold() {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const Operand& operand = args.call.rows[row];
      const Row* data = static_cast<const Row*>(operand.data) + index * operand.row_stride;
      each_chunk([&](int chunk, Column column) {
        if (kVector && column >= args.call.width) {
          held[row][chunk] = {};
        } else {
          held[row][chunk].read(data, column, valid(column), kVector);
        }
      });
    }
  }

  __device__ int inputs() const { return kHeld ? kRows : args.call.inputs; }
  // Those that the loss sees come first: (0, 1), (0, 2) ..., then (1, 2) where it swaps.
  __device__ int pairs() const { return kHeld ? kPairs : args.call.pairs; }
  __device__ bool exists(int pair) const {
    return !kHeld || pair < kRows - 1 || (kRows == 3 && args.call.swap);
  }
  __device__ RowPair ends(int pair) const {
    if constexpr (!kHeld) {
      return args.call.pair[pair];
    } else {
      int first = 0;
#pragma unroll
      for (int row = 0; row < kRows - 1; ++row) {
        if (row == first && pair >= kRows - 1 - row) pair -= kRows - 1 - row, ++first;
      }
      return {first, first + 1 + pair};
    }
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
  __device__ Vector<Row, V> read(int row, Column column) const {
    const Operand& operand = args.call.rows[row];
    Vector<Row, V> packed;
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
      held[row][chunk].decode(x);
    } else {
      read(row, column).decode(x);
    }
  }
  // V elements of u, x / norm with the last digit right: rows of one element are 1.
  __device__ void unit(int row, int chunk, Column column, float (&u)[V]) const {
    elements(row, chunk, column, u);
    if (kHeld ? kUnit : args.call.normalize) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float quotient = u[j] * found.scale[row];
        u[j] = fmaf(fmaf(-quotient, found.norm[row], u[j]), found.scale[row], quotient);
      }
    }
  }
  // What term and slope are of; 0 beyond the end of the row.
  __device__ void compare(const float (&a)[V], const float (&b)[V], Column column,
                          float (&t)[V]) const {
    const int end = valid(column);
#pragma unroll
    for (int j = 0; j < V; ++j) t[j] = a[j] - b[j] + (j < end ? args.eps : 0.0f);
  }

  // Of a row, from the sum of its squares; where that overflows, u is 0: 1 / inf.
  __device__ void set_norm(int row) {
    const float norm = square_root(found.squares[row]), least = static_cast<float>(kSmallestNorm);
    const bool tiny = norm<least, infinite = norm> std::numeric_limits<float>::max();
    const float scale = 1.0f / (tiny ? least : norm);
    found.norm[row] = tiny ? least : infinite ? 0.0f : norm;
    found.scale[row] = scale;
    found.back[row] = tiny ? 0.0f : scale;
    found.length[row] = tiny ? (norm * scale) * (norm * scale) : 1.0f;
  }
  // The same of a usual row, to an ulp; whether it is one. A large one's w / norm^2 would
  // underflow.
  __device__ bool set_scale(int row) {
    constexpr float kLeast = 1e-24f, kMost = 1e24f;
    const float square = found.squares[row], root = rsqrtf(square);
    found.scale[row] = fmaf(0.5f * root, fmaf(-square * root, root, 1.0f), root);
    found.length[row] = 1;
    return square >= kLeast && square <= kMost;
  }
  __device__ void set_distance(int pair, float sum) {
    const auto distance = Metric::distance(sum, args.p, args.call.squared);
    found.distance[pair] = distance.value;
    found.chain[pair] = distance.chain;
  }

  // All of held unit rows, unless two are near each other.
  __device__ void find_products() {
    float sums[kRows + kPairs] = {};
    each_chunk([&](int chunk, Column column) {
      float x[kRows][V];
#pragma unroll
      for (int row = 0; row < kRows; ++row) elements(row, chunk, column, x[row]);
#pragma unroll
      for (int j = 0; j < V; ++j) {
#pragma unroll
        for (int row = 0; row < kRows; ++row) sums[row] = fmaf(x[row][j], x[row][j], sums[row]);
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          const auto [first, second] = ends(pair);
          sums[kRows + pair] = fmaf(x[first][j], x[second][j], sums[kRows + pair]);
        }
      }
    });
    team.sum(sums);
    found.near = args.eps != 0;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      found.squares[row] = sums[row];
      const bool usual = set_scale(row);
      found.near = found.near || !usual;
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const auto [first, second] = ends(pair);
      found.cosine[pair] = sums[kRows + pair] * (found.scale[first] * found.scale[second]);
      const float squared = 2.0f - 2.0f * found.cosine[pair];
      found.near = found.near || !(squared >= kNear);
      set_distance(pair, squared);
    }
  }

  __device__ void find_norms() {
    for (int row = 0; row < inputs(); ++row) {
      float sums[1] = {};
      each_chunk([&](int chunk, Column column) {
        float x[V], sum = 0;
        elements(row, chunk, column, x);
#pragma unroll
        for (int j = 0; j < V; ++j) sum = fmaf(x[j], x[j], sum);
        sums[0] += sum;
      });
      team.sum(sums);
      found.fill([&] {
        found.squares[row] = sums[0];
        set_norm(row);
      });
    }
  }

  // From differences. Teams whose rows are not near only keep the others company.
  template <bool kBackward>
  __device__ void find_distances() {
    constexpr int kBatch = kHeld ? kPairs : 1;
    constexpr bool kProducts = kBackward && !kHeld;
#pragma unroll
    for (int start = 0; start < pairs(); start += kBatch) {
      float sums[kBatch] = {}, products[1] = {};
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
          sums[i] += sum;
          if constexpr (kProducts) products[0] += product;
        }
      });
      team.sum(sums);
      if (kProducts && args.call.normalize) team.sum(products);
      found.fill([&] {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          if (!kUnit || found.near) set_distance(start + i, sums[i]);
          if constexpr (kProducts) found.second[start + i] = products[0];
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
      terms.overlap = call.normalize ? found.length[0] + found.length[1] : 0.0f;
      terms.gaps = call.margin.data != nullptr ? nullptr : args.gaps;
      terms.levels = inputs() - 1;
      if constexpr (kRows == 4) {
        found.loss = HierarchicalTripletLoss::value(found.distance, terms, found.slopes);
      } else {
        visit_rows_loss(call, [&](auto functor) {
          found.loss = functor.value(found.distance, terms, found.slopes);
        });
      }
    });
  }

  template <bool kBackward>
  __device__ void find() {
    if constexpr (kUnit) {
      find_products();
      forget();
      if (team.any(found.near)) {
        if (found.near) {
#pragma unroll
          for (int row = 0; row < kRows; ++row) set_norm(row);
        }
        find_distances<kBackward>();
      }
    } else {
      if (!kHeld && args.call.normalize) find_norms();
      find_distances<kBackward>();
    }
    forget();
    find_loss();
  }

  __device__ float weight() const { return value_of(args.call.sample_weight, index, 1.0f); }
};

}  // namespace mtlfast
