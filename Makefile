# Everything from a bare machine: `make demo`, `make test`. Written for GNU make 3.81 and later.
#
#   PYTHON    the interpreter that .venv is made from            make PYTHON=python3.12 test
#   PIP_ARGS  handed to every pip call, e.g. a package index     make PIP_ARGS="--index-url ..." demo
#   ARGS      handed to what the target runs                     make test ARGS="-k focal -x"

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
OUT ?= runs/gpu-report
DATA ?=
STAGE ?=
TRITON ?= 3.6.0

# Where a fault is found, the process ends, and says where. Python's own flags let integers wrap.
SANITIZERS := -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all
SANITIZE := -O1 -g1 -fno-omit-frame-pointer -fno-wrapv $(SANITIZERS)
SANITIZED := build/sanitize
# The native backend's share of the tests that compute, and the bad calls.
SANITIZE_TESTS := tests/test_raw_ops.py tests/test_bad_input.py tests/test_edges.py \
    tests/test_accuracy.py tests/test_empty.py tests/test_rows.py tests/test_inbatch.py

# Dozens of processes import the same modules: what Python compiles of them, it keeps.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
RUN := $(VENV)/bin/python
LOG := $(VENV)/build.log
CSRC := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)

help:
	@echo "make demo      train a small multi-task model on real digits, pictures in runs/demo"
	@echo "make test      run the tests, but for the proofs"
	@echo "make proofs    a new loss by the README's steps, on a copy; Triton's kernels, interpreted"
	@echo "make check     lint and a tenth of the tests, spread over all files"
	@echo "make sanitize  run the native tests under the address and undefined behaviour sanitizers"
	@echo "make accuracy  how near to its bounds each loss comes, on every backend that runs here"
	@echo "make bench     time the losses against what one would otherwise run; tables in runs/bench"
	@echo "make bench-compare   time the kernels against those of the first time, kept in runs/kernels"
	@echo "make kernel-counts   what each GPU kernel issues and how long that takes, no GPU needed"
	@echo "make reference DATA=folder   the systems' figures on real data, half an hour"
	@echo "make triton TRITON=3.6.0   compile every launch with that Triton, no GPU needed"
	@echo "make wheel     build a wheel and an sdist into dist"
	@echo "make lint      check style and types"
	@echo "make docs      the manual, from the docstrings, in runs/docs"
	@echo "make install   make the environment in $(VENV) and build, nothing more"
	@echo "make gpu-report OUT=folder   build, test and time on this machine's NVIDIA GPU, offline;"
	@echo "               STAGE=tests or STAGE=bench makes half of it, in five minutes"
	@echo "make clean     remove what was built; $(VENV) and runs stay"

install: $(VENV)/.built

# Three stamps, so that a second run needs no network and builds only what changed.
$(VENV)/.environment: constraints.txt pyproject.toml .ci/environment.py
	@echo "Making the environment $(VENV) with $(PYTHON)."
	@$(PYTHON) .ci/environment.py $(VENV) $(PIP_ARGS)
	@touch $@

# Pure Python first, in a second; the native part then builds in place, where only changed files
# compile again.
$(VENV)/.installed: $(VENV)/.environment pyproject.toml setup.py
	@MTLFAST_NATIVE=0 $(RUN) -m pip install --disable-pip-version-check -q $(PIP_ARGS) \
	    --no-build-isolation --no-deps -e .
	@touch $@

FORCE:
$(VENV)/.built: $(VENV)/.installed $(CSRC) setup.py $(if $(filter 0,$(MTLFAST_NATIVE)),FORCE)
	@test "$(MTLFAST_NATIVE)" != 0 || rm -f mtlfast/*.so $@
	@echo "Building mtlfast; what the compilers say goes to $(LOG)."
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) setup.py -q build_ext --inplace > $(LOG) 2>&1 \
	    || { cat $(LOG); exit 1; }
	@rm -f mtlfast/_C.*so  # of before the library knew no Python
	@grep '^mtlfast:' $(LOG) || touch $@

demo: install
	$(RUN) -m mtlfast train digits --output runs/demo --overwrite $(ARGS)

test: install
	$(RUN) -m pytest -n auto --dist worksteal -m "not proof" $(ARGS)

# Whole programs that run other tests or compilers, two at a time.
proofs: install
	$(RUN) -m pytest -n auto --dist worksteal -m proof $(ARGS)

# For daily work.
check: lint
	$(RUN) -m pytest -n auto --dist worksteal -m "not slow" --one-in 10 $(ARGS)

# A copy of the package with a CPU part of its own, in $(SANITIZED); the usual one stays as it is.
# libstdc++ goes with the sanitizer, which watches exceptions from the start; Python has no C++.
SANITIZED_RUN = PYTHONPATH="$(CURDIR)/$(SANITIZED)/lib" \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
    UBSAN_OPTIONS=print_stacktrace=1 \
    LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
    $(RUN) -P
sanitize: $(VENV)/.installed
	@echo "Building the CPU part with sanitizers in $(SANITIZED)."
	@MTLFAST_CUDA=0 CXXFLAGS="$(SANITIZE)" \
	    LDFLAGS="$(SANITIZERS)" PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) setup.py -q build \
	    --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib > $(LOG) 2>&1 || { cat $(LOG); exit 1; }
	@$(SANITIZED_RUN) -c "from mtlfast.ops import native; assert '$(SANITIZED)' in native.PATH, native.PATH"
	$(SANITIZED_RUN) -m pytest -q -p no:xdist $(SANITIZE_TESTS) \
	    -k "(native or inbatch or raw_ops or misuse) and not value_matches and not memory" $(ARGS)

# Nothing dealt out: every case with every reduction, every kernel for every target. Tests that
# fail show in the table too.
accuracy: install
	@rm -rf runs/accuracy
	MTLFAST_ACCURACY=runs/accuracy $(RUN) -m pytest -q -n auto --dist worksteal --tb=line \
	    -k "match_float64 or torchs_own_samples or in_the_interpreter or spills or 16_bytes or mirror or differences \
	    or opcheck or extra_memory or float_in_64" tests/test_accuracy.py \
	    tests/test_inbatch_accuracy.py tests/test_torch_parity.py tests/test_triton.py \
	    tests/test_triton_inbatch.py tests/test_tails.py tests/test_near_rows.py tests/test_numerics.py \
	    tests/test_adding_a_loss.py tests/test_compile.py tests/test_execution.py $(ARGS) > $(VENV)/accuracy.log; tests=$$?; \
	    $(RUN) tests/accuracy.py runs/accuracy && tail -n 1 $(VENV)/accuracy.log && exit $$tests

bench: install
	$(RUN) -m mtlfast bench --goals $(ARGS)

# Without runs/kernels it saves a baseline there, with it it compares.
bench-compare: install
	$(RUN) -m pytest benches/bench_losses.py --benchmark-storage=runs/kernels \
	    $(if $(wildcard runs/kernels/*/*baseline.json),--benchmark-compare,--benchmark-save=baseline) \
	    --benchmark-group-by=fullname --benchmark-sort=name --benchmark-columns=median,iqr,rounds \
	    -W default::pytest.PytestWarning $(ARGS)

# Of the library that was built where nvcc is; ARGS="--triton" of Triton's kernels.
kernel-counts: install
	$(RUN) benches/kernel_counts.py $(ARGS)

# On the data's own terms: DATA names the folder that holds tox21, celeba and the others.
reference: install
	@test -n "$(DATA)" || { echo "make reference needs DATA=folder."; exit 1; }
	$(RUN) benches/reference.py --data "$(DATA)" $(ARGS)

# Another Triton's JIT specialises calls in its own way; 3.6.0 is the oldest that goes with PyTorch
# 2.11. ARGS="--every 1" makes all the calls there are, an hour.
triton: install
	@PIP_ARGS="$(PIP_ARGS)" .ci/triton $(RUN) "$(TRITON)" $(or $(ARGS),--every 25)

# For others' machines: the wheel is built from the sdist, away from the checkout.
wheel: $(VENV)/.environment
	rm -rf dist
	TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST-8.0;9.0;10.0+PTX}" \
	    PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m build --no-isolation $(ARGS)

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CSRC)

docs: install
	$(RUN) -m pdoc -d google -o runs/docs mtlfast mtlfast.train mtlfast.recipes
	@echo "The manual is runs/docs/index.html."

# With the machine's own Python: no environment is made and nothing is fetched or installed.
gpu-report:
	$(PYTHON) benches/gpu_report.py "$(OUT)" $(if $(STAGE),--stage $(STAGE))

clean:
	rm -rf build dist mtlfast.egg-info mtlfast/*.so $(VENV)/.built
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find mtlfast kernels tests benches -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help install demo test proofs check sanitize accuracy bench bench-compare kernel-counts reference triton wheel lint docs gpu-report clean
