// What each device supplies: the bodies of the ops, in its folder. A body is handed the parsed call
// and the allocated result; entries.h is what calls it.
#pragma once

#include "inbatch_call.h"
#include "results.h"

namespace mtlfast {

struct Cpu {
  static void forward(const PointwiseCall& call, const PointwiseResult& result);
  static void backward(const PointwiseCall& call, const Upstream& upstream, const Tensor& gradient);
  static void forward(const RowsCall& call, const RowsResult& result);
  static void backward(const RowsCall& call, const RowsUpstream& upstream,
                       const RowsGradients& gradients);
  static void run(const UnitsCall& call, const UnitsResult& result);
  static void run(const MineCall& call);
  static void run(const TotalsCall& call, const TotalsResult& result);
  static void run(const WeighCall& call);
  static void run(const NearCall& call);
  static void run(const ProjectCall& call);
};

// Triton does the in-batch losses on a GPU.
struct Cuda {
  static void forward(const PointwiseCall& call, const PointwiseResult& result);
  static void backward(const PointwiseCall& call, const Upstream& upstream, const Tensor& gradient);
  static void forward(const RowsCall& call, const RowsResult& result);
  static void backward(const RowsCall& call, const RowsUpstream& upstream,
                       const RowsGradients& gradients);
};

}  // namespace mtlfast
