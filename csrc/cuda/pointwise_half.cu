// The pointwise kernels for float16 logits; a file for each type, so that they compile side by
// side.
#include "pointwise_backward.cuh"
#include "pointwise_forward.cuh"

namespace mtlfast {

template void run_forward<Half>(const Launcher&, Loss, Path, const ForwardArgs&);
template void run_backward<Half>(const Launcher&, Loss, Path, const BackwardArgs&);

}  // namespace mtlfast
