# Every target sets up what it needs; a machine with python3.11, make and a package registry can start with any of them.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

SEED ?= 0
OUT ?= runs/demo
ARGS ?=

.PHONY: demo test browser lint bench install lock clean

# Wheels are installed as pinned, without a resolver; bytecode is compiled once here and not ten times by the first
# run's ten processes.
$(STAMP): requirements/cpu.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements/cpu.txt)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements/cpu.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

install: $(STAMP)

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
	$(BIN)/mypy data_prep reward_fns recipe

# Measurements that need nothing but this folder; each module of benchmarks/ says how it is run, and what it needs.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.reward
	$(BIN)/python -m benchmarks.length
	$(BIN)/python -m benchmarks.convert
	$(BIN)/python -m benchmarks.gpu_switches

# Pins again from requirements/*.in.
lock: $(STAMP)
	$(BIN)/python requirements/lock.py

clean:
	rm -rf $(VENV) runs
