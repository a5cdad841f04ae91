# Every target sets up what it needs: a virtual environment with exactly the locked packages. Setting up again is free.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Worker processes of pytest for the tests without Ray. With `make -j3 check test-all` those that start Ray, and mostly
# wait, run beside them.
JOBS ?= 2
# Only these files are imported for the tests that start Ray.
RAY_TESTS = $(shell grep -rl --include='*.py' 'mark\.cluster' tests)

.PHONY: demo test test-slow test-all without-ray on-ray alone check check-gpu lock format clean

demo: $(READY)
	@$(BIN)/igd demo

# CHOSEN ends an expression of marks.
test: CHOSEN := and not slow
test: without-ray on-ray

test-slow: CHOSEN := and slow
test-slow: without-ray on-ray alone

test-all: without-ray on-ray alone

# A worker takes over tests from the other one's end of the list: so a module's fixtures are mostly made once.
without-ray: $(READY)
	@$(BIN)/pytest -q -n $(JOBS) --dist worksteal -m "not cluster $(CHOSEN)"

# Ray has its workers step back behind everything else on a machine, where these would starve.
on-ray: $(READY)
	@RAY_worker_niceness=0 $(BIN)/pytest -q -m "cluster and not alone $(CHOSEN)" $(RAY_TESTS)

# What measures the machine's pace, once nothing else runs.
alone: without-ray on-ray
	@$(BIN)/pytest -q -m alone $(RAY_TESTS)

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
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@$(BIN)/python -m compileall -q igd_ray
	@touch $(READY)
