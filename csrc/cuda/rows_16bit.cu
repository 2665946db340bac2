// The rows kernels for 16-bit rows.
#include "rows_backward.cuh"
#include "rows_forward.cuh"

namespace mtlfast {

template void run_rows_forward<Float16Bits>(const Launcher&, int64_t, const RowsForwardArgs&);
template void run_rows_backward<Float16Bits>(const Launcher&, int64_t, const RowsBackwardArgs&);

}  // namespace mtlfast
