// What the kernels find out about a sample of the rows family.
#pragma once

#include "rows.cuh"

namespace mtlfast {

// What is known of a sample's rows and pairs. Where any number of rows may come, each warp has one
// in shared memory, which its first lane fills: registers cannot be indexed.
template <class Holding>
struct Findings {
  static constexpr bool kShared = Holding::kRows == 0;
  static constexpr int kRows = kShared ? kMaxRows : Holding::kRows;
  static constexpr int kPairs = kShared ? kMaxRows : kRows * (kRows - 1) / 2;

  float squares[kRows];             // their sum
  float norm[kRows], scale[kRows];  // u = row / norm; scale is 1 / norm
  float back[kRows];                // the gradient's factor: scale, 0 for a row too short
  float length[kRows];              // |u|^2, where the call normalises
  float along[kRows];               // backward: how much of dL/du points along u
  float cosine[kPairs];             // of held unit rows that are not near
  float distance[kPairs], chain[kPairs], slopes[kPairs];
  float second[kPairs];  // backward, of any number of rows: the sum of slope(t) u_second
  float loss;
  bool near;  // held unit rows: differences are needed

  template <class Write>
  __device__ void fill(const Write& write) {
    if constexpr (kShared) __syncwarp();
    if (!kShared || threadIdx.x == 0) write();
    if constexpr (kShared) __syncwarp();
  }
};

}  // namespace mtlfast
