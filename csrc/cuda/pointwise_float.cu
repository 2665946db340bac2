// The pointwise kernels for float logits; a file for each type, so that they compile side by
// side.
#include "pointwise_backward.cuh"
#include "pointwise_forward.cuh"

namespace mtlfast {

template void run_forward<float>(const Launcher&, Loss, Path, const ForwardArgs&);
template void run_backward<float>(const Launcher&, Loss, Path, const BackwardArgs&);

}  // namespace mtlfast
