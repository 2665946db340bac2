// The rows kernels for float rows.
#include "rows_backward.cuh"
#include "rows_forward.cuh"

namespace mtlfast {

template void run_rows_forward<float>(const Launcher&, const RowsForwardArgs&);
template void run_rows_backward<float>(const Launcher&, int64_t, const RowsBackwardArgs&);

}  // namespace mtlfast
