// The Python module mtlfast._C: facts about this build. Importing it registers the ops of ops.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "dispatch.h"
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

// The catalogue: {family: [loss names]}.
std::map<std::string, std::vector<std::string>> losses() {
  std::vector<std::string> pointwise;
#define MTLFAST_LIST(Functor) pointwise.push_back(mtlfast::Functor::kName);
  MTLFAST_POINTWISE_LOSSES(MTLFAST_LIST)
#undef MTLFAST_LIST
  std::vector<std::string> rows;
#define MTLFAST_LIST(name) rows.push_back(#name);
  MTLFAST_ROWS_LOSSES(MTLFAST_LIST)
#undef MTLFAST_LIST
  return {{"pointwise", pointwise},
          {"rows", rows},
          {"inbatch", {"batch_triplet_loss", "batch_contrastive_loss"}}};
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Facts about mtlfast's native build; importing it registers torch.ops.mtlfast.";
  module.def("build_info", &build_info, "Compiler, CUDA version and architectures ('' without).");
  module.def("cpu_isa", &cpu_isa, "The instruction set in use on this CPU.");
  module.def("losses", &losses, "Loss names by family.");
}
