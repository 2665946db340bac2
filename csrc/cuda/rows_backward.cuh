// The backward kernel: distances recomputed from the rows, then the rows' gradients.
//
// With w = coefficient x dl/dd x dd/dt and s = slope(t), a pair adds w s to G = dL/du of its first
// row and takes it from that of its second. Through the normalisation, dL/dx = r (G - (G . u) u):
// of unit rows a and b that are not near each other, r w (cos a - b) for a.
#pragma once

#include "rows_sample.cuh"

namespace mtlfast {

template <class Row, class Metric, class Holding>
struct Gradients {
  using Given = Sample<Row, Metric, Holding>;
  using Column = typename Given::Column;
  static constexpr int V = Given::V, kRows = Given::kRows;

  const RowsBackwardArgs& args;
  Given& sample;
  Findings<Holding>& found;
  const int64_t index;  // of the sample; beyond the last, nothing is written
  const float factor;   // of every sample

  __device__ bool normalizes() const { return Given::kHeld ? Given::kUnit : args.call.normalize; }

  // slopes <- w.
  __device__ void find_weights() {
    found.fill([&] {
      float coefficient = factor * sample.weight();
      if (args.call.reduction == Reduction::kNone) {
        coefficient *= widen(value_of<Row>(args.upstream.loss, sample.index));
      }
#pragma unroll
      for (int pair = 0; pair < sample.pairs(); ++pair) {
        if (sample.exists(pair)) found.slopes[pair] *= coefficient * found.chain[pair];
      }
    });
  }

  // along <- G . u. Of G itself, not of its terms, which all but cancel where the other rows nearly
  // coincide; a row beyond the third has a single one.
  __device__ void find_along() {
    constexpr int kSums = Given::kHeld ? kRows : 3;
    float sums[kSums] = {};
    each_gradient([&](int row, Column, const float (&u)[V], const float (&gradient)[V]) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < V; ++j) sum += gradient[j] * u[j];
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        if (i == row) sums[i] += sum;
      }
    });
    sample.team.sum(sums);
    found.fill([&] {
#pragma unroll
      for (int row = 0; row < kSums; ++row) found.along[row] = sums[row];
      for (int row = kSums; row < sample.inputs(); ++row) {
        found.along[row] = -found.slopes[row - 1] * found.second[row - 1];
      }
    });
    sample.forget();
  }

  __device__ void add_pair(int pair, Column column, const float (&a)[V], const float (&b)[V],
                           float (&first)[V], float (&second)[V]) const {
    float t[V];
    sample.compare(a, b, column, t);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float slope = found.slopes[pair] * Metric::slope(t[j], args.p);
      first[j] += slope;
      second[j] -= slope;
    }
  }

  template <bool kVector>
  __device__ void write(int row, Column column, const float (&gradient)[V]) const {
    if (args.gradients[row] == nullptr || column >= args.call.width) return;
    Vector<Row, V> packed;
    packed.encode(gradient);
    packed.write(args.gradients[row], index * args.call.width + column, sample.valid(column),
                 kVector);
  }

  // Calls take(row, column, u, G) for the thread's part of every row.
  template <class Take>
  __device__ void each_gradient(const Take& take) const {
    sample.each_chunk([&](int chunk, Column column) {
      float anchor[V], of_anchor[V] = {};
      sample.unit(0, chunk, column, anchor);
#pragma unroll
      for (int row = 1; row < sample.inputs(); ++row) {
        float u[V], of_row[V] = {};
        sample.unit(row, chunk, column, u);
        add_pair(row - 1, column, anchor, u, of_anchor, of_row);
        if ((kRows == 0 || kRows == 3) && args.call.swap) {  // three rows; the last pair is (1, 2)
          float other[V], ignored[V] = {};
          sample.unit(3 - row, chunk, column, other);
          if (row == 1) add_pair(2, column, u, other, of_row, ignored);
          if (row == 2) add_pair(2, column, other, u, ignored, of_row);
        }
        take(row, column, u, of_row);
      }
      take(0, column, anchor, of_anchor);
    });
  }

  template <bool kVector>
  __device__ void write_differences() const {
    each_gradient([&](int row, Column column, const float (&u)[V], float (&gradient)[V]) {
      if (normalizes()) {
        const float back = found.back[row], along = found.along[row];
#pragma unroll
        for (int j = 0; j < V; ++j) {
          gradient[j] = back == 0 ? 0.0f : back * (gradient[j] - along * u[j]);
        }
      }
      write<kVector>(row, column, gradient);
    });
  }

  // Every gradient is a sum of the rows.
  template <bool kVector>
  __device__ void write_products() const {
    float factors[kRows][kRows] = {};
#pragma unroll
    for (int pair = 0; pair < Given::kPairs; ++pair) {
      if (!sample.exists(pair)) continue;
      const auto [a, b] = sample.ends(pair);
      const float weight = found.slopes[pair];
      factors[a][b] = factors[b][a] = -weight * found.scale[a] * found.scale[b];
      factors[a][a] += weight * found.cosine[pair] * found.scale[a] * found.scale[a];
      factors[b][b] += weight * found.cosine[pair] * found.scale[b] * found.scale[b];
    }
    sample.each_chunk([&](int chunk, Column column) {
      float x[kRows][V];
#pragma unroll
      for (int row = 0; row < kRows; ++row) sample.elements(row, chunk, column, x[row]);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        float gradient[V] = {};
#pragma unroll
        for (int other = 0; other < kRows; ++other) {
#pragma unroll
          for (int j = 0; j < V; ++j) {
            gradient[j] = fmaf(factors[row][other], x[other][j], gradient[j]);
          }
        }
        write<kVector>(row, column, gradient);
      }
    });
  }

  template <bool kVector>
  __device__ void write_all() const {
    if constexpr (Given::kUnit) {
      if (!found.near) return write_products<kVector>();
    }
    write_differences<kVector>();
  }
};

template <class Row, class Metric, class Holding>
__global__ void __launch_bounds__(kThreads, resident_rows<Row, Holding, true>())
    rows_backward_kernel(const __grid_constant__ RowsBackwardArgs args) {
  __shared__ Findings<Holding> findings[Findings<Holding>::kShared ? kWarps : 1];
  Findings<Holding> own;
  Findings<Holding>& found = Findings<Holding>::kShared ? findings[threadIdx.y] : own;
  TeamOf<Holding> team(args.team);
  float factor = 1;
  if (args.call.reduction != Reduction::kNone) {
    factor = value_of<float>(args.upstream.loss, 0) /
             *static_cast<const float*>(args.upstream.denominator);
  }
  const int64_t step = int64_t{gridDim.x} * team.teams(), samples = args.call.samples;
  // Every thread of a block goes on as long as one does: they meet in the teams' sums.
  for (int64_t start = int64_t{blockIdx.x} * team.teams(); start < samples; start += step) {
    const int64_t index = start + team.number;
    Sample<Row, Metric, Holding> sample(args, team, found, min(index, samples - 1));
    sample.template find<true>();
    Gradients<Row, Metric, Holding> gradients{args, sample, found, index, factor};
    gradients.find_weights();
    if (Holding::kUnit ? team.any(found.near) : gradients.normalizes()) gradients.find_along();
    if (index >= samples) continue;
    args.vector ? gradients.template write_all<true>() : gradients.template write_all<false>();
  }
}

template <class Row>
void run_rows_backward(const Launcher& launch, int64_t blocks, const RowsBackwardArgs& args) {
  visit_kernel<Row, true>(args, [&](auto metric, auto holding) {
    launch(rows_backward_kernel<Row, decltype(metric), decltype(holding)>, blocks, args);
  });
}

}  // namespace mtlfast
