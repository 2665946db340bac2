// The forward kernel: the loss of each sample, then their sum, in one launch. The last block adds
// up what the others found.
#pragma once

#include "rows_sample.cuh"

namespace mtlfast {

// The sums of all samples are complete.
__device__ inline void finish_rows(const RowsForwardArgs& args, const Totals& sum) {
  if (threadIdx.x > 0 || threadIdx.y > 0) return;
  double divisor = 1;
  if (args.call.reduction == Reduction::kMean) divisor = static_cast<double>(args.call.samples);
  if (args.call.reduction == Reduction::kNonzero) divisor = static_cast<double>(sum.count);
  if (divisor == 0) divisor = 1;
  *args.denominator = static_cast<float>(divisor);
  if (args.loss != nullptr) *args.loss = static_cast<float>(sum.loss / divisor);
}

template <class Row, class Metric, class Holding>
__global__ void __launch_bounds__(kThreads, kResidentRows<Row, Holding, false>)
    rows_forward_kernel(const __grid_constant__ RowsForwardArgs args) {
  __shared__ Totals scratch[kThreads];
  __shared__ Findings<Holding> findings[Findings<Holding>::kShared ? kWarps : 1];
  Findings<Holding> own;
  Findings<Holding>& found = Findings<Holding>::kShared ? findings[threadIdx.y] : own;
  Team team(args.team);
  Totals sum;
  const int64_t step = int64_t{gridDim.x} * team.teams(), samples = args.call.samples;
  // Every thread of a block goes on as long as one does: they meet in the teams' sums.
  for (int64_t start = int64_t{blockIdx.x} * team.teams(); start < samples; start += step) {
    const int64_t index = start + team.number;
    Sample<Row, Metric, Holding> sample(args, team, found, min(index, samples - 1));
    sample.template find<false>();
    if (team.rank > 0 || index >= samples) continue;
    const float loss = found.loss * sample.weight();
    sum.loss += static_cast<double>(loss);
    sum.count += args.call.soft || found.loss > 0 ? 1 : 0;
    if (args.elements != nullptr)
      static_cast<Row*>(args.elements)[index] = narrow<Row>(loss, args.call.dtype);
  }
  if (!gather_blocks(sum, blockIdx.x, gridDim.x, args.partials, args.ticket, scratch)) return;
  finish_rows(args, tree_sum(sum, 1, kThreads, scratch));
}

template <class Row>
void run_rows_forward(const Launcher& launch, int64_t blocks, const RowsForwardArgs& args) {
  visit_kernel<Row>(args, [&](auto metric, auto holding) {
    launch(rows_forward_kernel<Row, decltype(metric), decltype(holding)>, blocks, args);
  });
}

}  // namespace mtlfast
