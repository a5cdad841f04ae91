# Every target sets up what it needs: a virtual environment with exactly the locked packages. Setting up again is free.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Worker processes of pytest; the tests that start Ray run one after another behind them.
JOBS ?= 2

.PHONY: demo test test-slow check check-gpu lock format clean

demo: $(READY)
	@$(BIN)/igd demo

test: $(READY)
	@$(BIN)/pytest -q -n $(JOBS) -m "not slow and not cluster"
	@$(BIN)/pytest -q -m "cluster and not slow"

test-slow: $(READY)
	@$(BIN)/pytest -q -n $(JOBS) -m "slow and not cluster"
	@$(BIN)/pytest -q -m "slow and cluster"

check: $(READY)
	@$(BIN)/ruff check igd_ray jobs tests
	@$(BIN)/ruff format --check igd_ray jobs tests
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# On a machine with a GPU: the contracts there, equal verdicts on CPU and GPU, and how fast gradients are. It sets up
# nothing where there is no $(VENV), so that it runs with what such a machine has.
ON_GPU := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
check-gpu:
	@$(ON_GPU) -m pytest -q -p no:cacheprovider tests/gpu tests/defenses/test_defense_contract.py -k "cuda or other_device or robust"
	@$(ON_GPU) -m tests.gpu.rates

# Resolves the newest packages that pyproject.toml allows, for every platform and Python it supports.
lock: $(READY)
	@$(BIN)/uv pip compile --quiet --universal --upgrade --no-emit-index-url --no-header --no-annotate \
		--python-version 3.11 --extra dev pyproject.toml -o requirements.lock

format: $(READY)
	@$(BIN)/ruff check --fix igd_ray jobs tests
	@$(BIN)/ruff format igd_ray jobs tests

clean:
	rm -rf $(VENV) results

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "igd-ray needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "setting up $(VENV), about a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)
