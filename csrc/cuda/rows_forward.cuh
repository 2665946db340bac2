// The forward kernel: the loss of each sample, summed by blocks. A single block finishes, too.
#pragma once

#include "rows_sample.cuh"

namespace mtlfast {

template <class Row, class Metric, class Holding>
__global__ void __launch_bounds__(kThreads, resident_rows<Row, Holding, false>())
    rows_forward_kernel(const __grid_constant__ RowsForwardArgs args) {
  let_next_kernel_start();
  __shared__ Findings<Holding> findings[Findings<Holding>::kShared ? kWarps : 1];
  Findings<Holding> own;
  Findings<Holding>& found = Findings<Holding>::kShared ? findings[threadIdx.y] : own;
  TeamOf<Holding> team(args.team);
  Scalars sum;
  const int64_t step = int64_t{gridDim.x} * team.teams(), samples = args.call.samples;
  // Every thread of a block goes on as long as one does: they meet in the teams' sums.
  for (int64_t start = int64_t{blockIdx.x} * team.teams(); start < samples; start += step) {
    const int64_t index = start + team.number;
    Sample<Row, Metric, Holding> sample(args, team, found, min(index, samples - 1));
    sample.template find<false>();
    if (team.rank > 0 || index >= samples) continue;
    const float loss = found.loss * sample.weight();
    sum.loss += static_cast<double>(loss);
    sum.divisor += args.call.soft || found.loss > 0 ? 1 : 0;
    if (args.elements != nullptr) static_cast<Row*>(args.elements)[index] = narrow<Row>(loss);
  }
  sum = block_sum(sum);
  if (args.blocks == 1) return finish_rows(args, sum);
  if (threadIdx.x == 0 && threadIdx.y == 0) args.partials[blockIdx.x] = sum;
}

template <class Row>
void run_rows_forward(const Launcher& launch, const RowsForwardArgs& args) {
  visit_kernel<Row, false>(args, [&](auto metric, auto holding) {
    launch(rows_forward_kernel<Row, decltype(metric), decltype(holding)>, args.blocks, args);
  });
}

}  // namespace mtlfast
