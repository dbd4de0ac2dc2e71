# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make the environment first if there is none.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NEWEST := $(VENV)-newest-flower
# The first of these that is 3.11 or 3.12 makes the environment.
PYTHONS := python3.12 python3.11 python3 python
# Flower starts its own commands by name.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: help install demo watch report test test-all test-newest-flower check bench docs smoke soak clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## Make the environment .venv (minutes the first time, and 7 GB), which the others do by themselves

demo: $(READY)  ## Fine-tune the embedded backbone on handwritten digits over ten simulated clients (about 3 minutes)
	@$(BIN)/python deploy/simulate.py --supernodes 10

watch: $(READY)  ## Follow the newest run as a live table
	@$(BIN)/deltamask watch

report: $(READY)  ## The newest run as one HTML page
	@$(BIN)/deltamask report

# Files of tests run side by side, but for those that start a federation of processes: these use every core, and have time limits.
SIDE_BY_SIDE := --ignore tests/e2e --numprocesses auto --maxprocesses 4 --dist loadfile

test: $(READY)  ## Tests, without the slow ones
	$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest -m "not slow" tests/e2e

test-all: $(READY)  ## Every test
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest tests/e2e

test-newest-flower: $(NEWEST)/.ready  ## The end-to-end tests on Flower 1.41, which speaks HTTP (an environment on top of the first)
	PATH="$(abspath $(NEWEST)/bin):$$PATH" $(NEWEST)/bin/python -m pytest tests/e2e

check: $(READY)  ## Lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## Measure the codecs on this machine
	$(BIN)/python -m benchmarks.codecs

docs: $(READY)  ## Write what docs/ takes from the code: config keys, commands, numbers of the wire format, imports
	$(BIN)/python docs/generate.py
	$(BIN)/python -m docs.architecture

smoke:  ## Build the images, run the compose demo, compare it with the simulation
	docker/smoke.sh

soak: $(READY)  ## 200 rounds with lost and damaged replies and a server that is killed, beside a run without (half an hour)
	$(BIN)/python -m benchmarks.soak

clean:  ## Remove the environment, caches and build output; keeps runs/
	rm -rf $(VENV) $(NEWEST) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml common/models/letters_vit.safetensors
	@python=""; for name in $(PYTHONS); do \
	  if $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or 3.12 is needed, and none of these is one: $(PYTHONS). Install one, for instance: apt-get install python3.11 python3.11-venv" >&2; exit 1; fi; \
	if [ ! -x $(BIN)/python ]; then echo "making $(VENV) with $$($$python --version) ..."; $$python -m venv $(VENV); fi
	@echo "installing (minutes the first time: torch and its libraries take about 6 GB) ..."
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@# What every Flower process in this environment needs to know, also when `flwr` is called by hand: everything is installed already (else a
	@# simulation installs torch again, into an environment of its own), and nothing is to be reported anywhere.
	@printf '%s\n' 'import os; [os.environ.setdefault(k, v) for k, v in (("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1"), ("FLWR_TELEMETRY_ENABLED", "0"), ("FLWR_DISABLE_UPDATE_CHECK", "1"), ("RAY_USAGE_STATS_ENABLED", "0"))]' \
	  > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/deltamask_flower.pth"
	@touch $@

# Flower and what it brings come from here; torch and everything else, at the same versions, from the first environment.
$(NEWEST)/.ready: $(READY)
	@echo "installing Flower 1.41 ..."
	@$(BIN)/python -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet "flwr[simulation]~=1.41.0" "numpy==$$($(BIN)/python -c 'import numpy; print(numpy.__version__)')"
	$(NEWEST)/bin/python -m pip install --quiet --no-deps --editable .
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(NEWEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first_environment.pth"
	@touch $@
