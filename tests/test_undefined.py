"""The functors on NaN and inf: no undefined behaviour, by the compiler's own sanitizer."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
PROGRAM = """
#include <cstdio>
#include <limits>

#include "cpu/wide.h"

using namespace mtlfast;

#if defined(MTLFAST_EMULATED_GPU)
template <class Functor, class F>
using In = F;
#else
template <class Functor, class F>
using In = std::conditional_t<Functor::kWide && std::is_same_v<F, float>, Wide, F>;
#endif

// Every functor where a label is missing: whatever bits a NaN has.
template <class Functor, class F>
void run(const F* x, int count, double* sum) {
  const Packed<double> some[] = {{0, 2, 2, 0, 1e-8}, {0.1, 2.5, 1, 0.05, 1e-8}};
  for (const Packed<double>& given : some) {
    const auto add = [&](auto functor, auto k) {
      using E = decltype(k.smoothing);
      for (int i = 0; i < count; ++i) {
        for (int j = 0; j < count; ++j) {
          const E y = evaluated_label<decltype(functor)>(E(x[j]), k);
          *sum += double(functor.value(E(x[i]), y, E(F(1)), k));
          *sum += double(functor.grad(E(x[i]), y, E(F(1)), k));
        }
      }
    };
    add(Functor(), Params<Functor, In<Functor, F>>(given));
    visit_params<Functor, F>(given, given.smoothing() == 0, add);
  }
}

template <class F>
double run_all() {
  using limits = std::numeric_limits<F>;
  const F x[] = {limits::quiet_NaN(), -limits::quiet_NaN(), limits::signaling_NaN(),
                 limits::infinity(), -limits::infinity(), limits::max(), -limits::max(),
                 limits::min(), limits::denorm_min(), F(0), F(-0.0), F(1), F(-1), F(88), F(-88)};
  constexpr int kCount = sizeof(x) / sizeof(x[0]);
  double sum = 0;
#define RUN(Functor) run<Functor>(x, kCount, &sum);
  MTLFAST_POINTWISE_LOSSES(RUN)
  for (const F value : x) {
    sum += double(exp_nonpositive(value)) + double(log_positive(value));
    sum += double(log_hit(value, value, F(0))) + double(pow_unit(value, F(2.5)));
    sum += double(Logistic<F>(value).softplus().plus) + double(bounded(value));
  }
  return sum;
}

int main() { std::printf("%g\\n", run_all<float>() + run_all<double>()); }
"""


@pytest.mark.parametrize("side", ["cpu", "gpu"])
def test_no_number_is_undefined_behaviour(side, tmp_path):
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if not shutil.which(compiler[0]):
        pytest.skip(f"no C++ compiler ({compiler[0]}) was found")
    sanitized = [*compiler, "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
    (tmp_path / "empty.cpp").write_text("int main() {}")
    build = [*sanitized, "-std=c++20", "-O1", f"-iquote{CSRC}"]
    probe = subprocess.run([*build, tmp_path / "empty.cpp", "-o", tmp_path / "empty"])
    if probe.returncode:
        pytest.skip(f"{compiler[0]} has no -fsanitize=undefined")
    (tmp_path / "program.cpp").write_text(PROGRAM)
    macro = ["-DMTLFAST_EMULATED_GPU"] if side == "gpu" else []
    command = [*build, *macro, tmp_path / "program.cpp", "-o", tmp_path / "program"]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("nan", "-nan")
