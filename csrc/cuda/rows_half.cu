// The rows kernels for float16 rows.
#include "rows_backward.cuh"
#include "rows_forward.cuh"

namespace mtlfast {

template void run_rows_forward<Half>(const Launcher&, const RowsForwardArgs&);
template void run_rows_backward<Half>(const Launcher&, int64_t, const RowsBackwardArgs&);

}  // namespace mtlfast
