// The pointwise kernels for 16-bit logits; a file for each width, so that they compile side by
// side.
#include "pointwise_backward.cuh"
#include "pointwise_forward.cuh"

namespace mtlfast {

template void run_forward<Float16Bits>(const Launcher&, Loss, Path, const ForwardArgs&);
template void run_backward<Float16Bits>(const Launcher&, Loss, Path, const BackwardArgs&);

}  // namespace mtlfast
