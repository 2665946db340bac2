// The half of mtlfast._numerics that computes as the GPU does: the device's branch of math.h.
#define MTLFAST_EMULATED_GPU
#define mtlfast mtlfast_on_gpu  // the same names, another program: the two must not be merged

#include "numerics.h"

void bind_gpu(pybind11::module_& module) {
  namespace py = pybind11;
  module.doc() = "As the GPU computes; its instructions are off by what set_errors says.";
  mtlfast::bind_type<float>(module);
  module.def(
      "set_errors",
      [](double exp2, double divide, double log) { mtlfast::errors = {exp2, divide, log}; },
      py::arg("exp2"), py::arg("divide"), py::arg("log"), "In units in the last place.");
}
