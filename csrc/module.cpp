// The Python module mtlfast._C: facts about this build. Importing it registers the ops of ops.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "dispatch.h"
#include "inbatch.h"
#include "rows.h"

namespace {

// The instruction set that the loops compiled with target_clones resolve to.
std::string cpu_isa() {
#if defined(__ELF__) && defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2)";
  return "x86-64";
#elif defined(__aarch64__)
  return "aarch64 (NEON)";
#else
  return "baseline";
#endif
}

std::map<std::string, std::string> build_info() {
#if defined(__clang__)
  std::string compiler = "clang " __clang_version__;
#else
  std::string compiler = "g++ " __VERSION__;
#endif
#if defined(MTLFAST_WITH_CUDA)
  const std::string cuda = MTLFAST_CUDA_VERSION, architectures = MTLFAST_CUDA_ARCHITECTURES;
#else
  const std::string cuda, architectures;
#endif
  return {{"compiler", compiler}, {"cuda", cuda}, {"cuda_architectures", architectures}};
}

using Names = std::vector<std::string>;

// The catalogue: {family: [loss names]}, by number.
std::map<std::string, Names> losses() {
#define MTLFAST_LIST(name) #name,
  return {{"pointwise",
           Names(std::begin(mtlfast::kPointwiseNames), std::end(mtlfast::kPointwiseNames))},
          {"rows", {MTLFAST_ROWS_LOSSES(MTLFAST_LIST)}},
          {"inbatch", {MTLFAST_INBATCH_LOSSES(MTLFAST_LIST)}}};
#undef MTLFAST_LIST
}

Names reductions() {
  return Names(std::begin(mtlfast::kReductionNames), std::end(mtlfast::kReductionNames));
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Facts about mtlfast's native build; importing it registers torch.ops.mtlfast.";
  module.def("build_info", &build_info, "Compiler, CUDA version and architectures ('' without).");
  module.def("cpu_isa", &cpu_isa, "The instruction set in use on this CPU.");
  module.def("losses", &losses, "Loss names by family, in the order of their numbers.");
  module.def("reductions", &reductions, "Names of reductions, in the order of their numbers.");
}
