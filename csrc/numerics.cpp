// The Python module mtlfast._numerics, for tests and benches alone: math.h and the functors over
// numpy arrays, as the CPU computes (cpu) and as CUDA does (gpu).
#include "numerics.h"

void bind_gpu(pybind11::module_& module);  // numerics_gpu.cpp

PYBIND11_MODULE(_numerics, module) {
  namespace py = pybind11;
  using namespace mtlfast;
  auto cpu = module.def_submodule("cpu", "As the CPU computes, in float32 and float64.");
  bind_type<float>(cpu);
  bind_type<double>(cpu);
  // The numerics of float32 losses that the CPU evaluates in double, to 8 digits.
  cpu.def("evaluate_wide", &evaluate<double, Wide>, py::arg("name"), py::arg("x").noconvert(),
          py::arg("y").noconvert());
  auto gpu = module.def_submodule("gpu");
  bind_gpu(gpu);
  std::vector<std::string> names;
  for (const auto& [name, function] : functions<float>()) names.push_back(name);
  module.attr("functions") = names;
}
