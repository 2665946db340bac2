// The rows losses on CUDA: what the kernels are called with.
#include <bit>

#include "devices.h"
#include "rows.cuh"

namespace mtlfast {
namespace {

constexpr int64_t kMostLooped = 8;                 // vectors of a row that a thread reads in a loop
constexpr int64_t kBlocksBackward = 16 * kBlocks;  // where no block adds up what the others found

// A longer row gets more vectors in each thread first, then more warps, which must wait for each
// other.
template <class Row, bool kBackward>
void lay_out(RowsArgs& args, int64_t vectors) {
  const int rows = args.call.inputs;
  const bool usual =
      args.call.metric == Metric::kSquares && (rows <= 3 || (rows == 4 && args.call.normalize));
  const bool held = usual && vectors <= most_held<Row>(rows) * kThreads;
  args.chunks = held ? chunks_for<Row, kBackward>(vectors, rows) : 0;
  const int64_t wanted = divide_up(vectors, held ? args.chunks : kMostLooped);
  const auto threads =
      static_cast<uint64_t>(std::clamp<int64_t>(wanted, held ? 1 : kLanes, kThreads));
  args.team = static_cast<int>(std::bit_ceil(threads));
}

template <bool kBackward>
RowsArgs common_args(const RowsCall& call) {
  RowsArgs args{call};
  args.p = static_cast<float>(call.p);
  args.eps = static_cast<float>(call.eps);
  args.margin = static_cast<float>(call.margin_value);
  std::copy(std::begin(call.gaps), std::end(call.gaps), args.gaps);
  visit_narrow(call.dtype, [&](auto type) {
    constexpr int64_t V = 16 / sizeof(type);
    args.vector = call.width % V == 0;
    for (int row = 0; row < call.inputs; ++row) {
      const Operand& operand = call.rows[row];
      const bool in_step = operand.row_stride % V == 0 || call.samples <= 1;
      args.vector = args.vector && in_step && aligned(operand.data, 16);
    }
    lay_out<decltype(type), kBackward>(args, divide_up(call.width, V));
  });
  return args;
}

// The sum over the blocks.
__global__ void __launch_bounds__(kThreads)
    rows_finish_kernel(const __grid_constant__ RowsForwardArgs args) {
  wait_for_previous_kernel();
  Scalars sum;
#pragma unroll 4
  for (int block = thread_number(); block < args.blocks; block += kThreads) {
    sum += args.partials[block];
  }
  finish_rows(args, block_sum(sum));
}

int64_t blocks_of(const RowsArgs& args, int64_t most) {
  return std::clamp<int64_t>(divide_up(args.call.samples, kThreads / args.team), 1, most);
}

}  // namespace

void Cuda::forward(const RowsCall& call, const RowsResult& result) {
  require_narrow(call.compute);
  const Launcher launch(result.loss);
  const bool none = call.reduction == Reduction::kNone;
  RowsForwardArgs args{common_args<false>(call)};
  args.blocks = static_cast<int>(blocks_of(args, kBlocks));
  args.elements = none ? data_of<void>(result.loss) : nullptr;
  args.loss = none ? nullptr : data_of<float>(result.loss);
  args.denominator = data_of<float>(result.denominator);
  const Tensor scratch = new_tensor(
      result.loss, {args.blocks * static_cast<int64_t>(sizeof(Scalars))}, ScalarType::Byte);
  args.partials = data_of<Scalars>(scratch);
  visit_narrow(call.dtype, [&](auto type) { run_rows_forward<decltype(type)>(launch, args); });
  if (args.blocks > 1) launch.next(rows_finish_kernel, 1, kWarps, args);
}

void Cuda::backward(const RowsCall& call, const RowsUpstream& upstream,
                    const RowsGradients& gradients) {
  require_narrow(call.compute);
  const Launcher launch(gradients.tensors[0]);
  RowsBackwardArgs args{common_args<true>(call)};
  args.upstream = upstream;
  std::copy(std::begin(gradients.data), std::end(gradients.data), args.gradients);
  visit_narrow(call.dtype, [&](auto type) {
    run_rows_backward<decltype(type)>(launch, blocks_of(args, kBlocksBackward), args);
  });
}

}  // namespace mtlfast
