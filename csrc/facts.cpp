// Facts about this build, as JSON. Whoever loads the library compares the catalogue in it with its
// own, since ops know losses and reductions by number alone: mtlfast/ops/native.py.
#include <string>

#include "dispatch.h"
#include "inbatch.h"
#include "rows.h"

namespace mtlfast {
namespace {

// The instruction set that the loops compiled with target_clones resolve to.
const char* cpu_isa() {
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

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "g++ " __VERSION__;
#endif

#if defined(MTLFAST_WITH_CUDA)
constexpr const char *kCuda = MTLFAST_CUDA_VERSION, *kArchitectures = MTLFAST_CUDA_ARCHITECTURES;
#else
constexpr const char *kCuda = "", *kArchitectures = "";
#endif

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char each : text) {
    if (each == '"' || each == '\\') out += '\\';
    out += each;
  }
  return out + '"';
}

// Adds one name to a list, or one value of a name to an object.
void add(std::string& list, const std::string& entry) {
  list += (list.empty() ? "" : ", ") + entry;
}

std::string named_pair(const char* name, const char* parameters) {
  return "[" + quoted(name) + ", " + quoted(parameters) + "]";
}

std::string facts() {
  std::string pointwise, rows, inbatch, reductions, all;
#define MTLFAST_ADD(Functor) add(pointwise, named_pair(Functor::kName, Functor::kParameters));
  MTLFAST_POINTWISE_LOSSES(MTLFAST_ADD)
#undef MTLFAST_ADD
#define MTLFAST_ADD(name) add(rows, named_pair(#name, parameters_of::name::kParameters));
  MTLFAST_ROWS_LOSSES(MTLFAST_ADD)
#undef MTLFAST_ADD
#define MTLFAST_ADD(name) add(inbatch, named_pair(#name, parameters_of::name::kParameters));
  MTLFAST_INBATCH_LOSSES(MTLFAST_ADD)
#undef MTLFAST_ADD
  for (const char* name : kReductionNames) add(reductions, quoted(name));
  add(all, "\"compiler\": " + quoted(kCompiler));
  add(all, "\"cpu\": " + quoted(cpu_isa()));
  add(all, "\"cuda\": " + quoted(kCuda));
  add(all, "\"cuda_architectures\": " + quoted(kArchitectures));
  add(all, "\"losses\": {\"pointwise\": [" + pointwise + "], \"rows\": [" + rows +
               "], \"inbatch\": [" + inbatch + "]}");
  add(all, "\"reductions\": [" + reductions + "]");
  return "{" + all + "}";
}

}  // namespace
}  // namespace mtlfast

// Compiler, instruction set in use, CUDA version and architectures ("" without); the losses by
// family, each with its parameters, and the reductions, in the order of their numbers.
extern "C" __attribute__((visibility("default"))) const char* mtlfast_facts() {
  static const std::string all = mtlfast::facts();
  return all.c_str();
}
