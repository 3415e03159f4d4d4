# Every target sets up what it needs; a machine with python3.11, make and a package registry can start with any of them.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

SEED ?= 0
OUT ?= runs/demo
ARGS ?=

.PHONY: demo test browser lint bench install gpu lock clean

# Wheels are installed as pinned, without a resolver; bytecode is compiled once here and not ten times by the first
# run's ten processes.
$(STAMP): requirements/cpu.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements/cpu.txt)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements/cpu.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

install: $(STAMP)

# A CUDA machine, from nothing: the pinned set, then flash-attn, which has no wheel for this torch and is built here.
# FLASH_ATTN=FILE.whl takes a wheel of yours, FLASH_ATTN=none leaves it out (docs/cluster.md says what that costs).
# ARCHS: 80 for A100, 90 for H100 and H200. A build job takes up to 7 GB of memory, so JOBS follows from what is free.
FLASH_ATTN ?= build
ARCHS ?= 90
JOBS ?= $(shell awk -v cores=$$(nproc) '/MemAvailable/ {n = int($$2 / 7e6); print n < 1 ? 1 : (n < cores ? n : cores)}' /proc/meminfo)

gpu:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements/cpu.txt)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements/gpu.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
ifeq ($(FLASH_ATTN),build)
	@command -v nvcc >/dev/null || test -x "$$CUDA_HOME/bin/nvcc" || { echo "flash-attn is built with nvcc, which is not \
	found: install the CUDA toolkit and set CUDA_HOME, or run make gpu FLASH_ATTN=FILE.whl, or FLASH_ATTN=none"; exit 1; }
	@echo "Building flash-attn for compute capability $(ARCHS) with $(JOBS) job(s): about 3 CPU-hours for each one, and \
	up to 7 GB of memory for each job."
	FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS="$(ARCHS)" MAX_JOBS=$(JOBS) \
		$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -r requirements/flash-attn.txt
else ifneq ($(FLASH_ATTN),none)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps "$(FLASH_ATTN)"
endif
	$(BIN)/critic-r1 doctor

# The paper in miniature: data, warm start, GRPO on critic tasks, evaluation, self-critique, report.
demo: $(STAMP)
	$(BIN)/critic-r1 demo --seed $(SEED) --out $(OUT) $(ARGS)

# The report is tested in a real browser. Playwright's own is not on package registries; Debian's Chromium is.
browser:
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || [ -n "$$CRITIC_R1_CHROMIUM" ] \
		|| { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }

# All tests, a short GRPO run on the real stack among them.
test: $(STAMP) browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy data_prep reward_fns recipe benchmarks tests

# Measurements that need nothing but this folder, and the tests that are longer samples of what `make test` shows; each
# module of benchmarks/ says how it is run, and what it needs.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.reward
	$(BIN)/python -m benchmarks.length
	$(BIN)/python -m benchmarks.convert
	$(BIN)/python -m benchmarks.gpu_switches --again
	$(BIN)/python -m pytest -m bench

# Pins again from requirements/*.in.
lock: $(STAMP)
	$(BIN)/python requirements/lock.py

clean:
	rm -rf $(VENV) runs
