// The rows kernels for bfloat16 rows.
#include "rows_backward.cuh"
#include "rows_forward.cuh"

namespace mtlfast {

template void run_rows_forward<BFloat16>(const Launcher&, const RowsForwardArgs&);
template void run_rows_backward<BFloat16>(const Launcher&, int64_t, const RowsBackwardArgs&);

}  // namespace mtlfast
