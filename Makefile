# One command per wish, the same for people and for CI. Plain `make` lists them.

PYTHON ?= $(shell for one in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$one -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$one && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ALL := $(VENV)/.ready-all
PROFILE ?= cpu

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow test-gpu check up bench chaos soak clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## a virtual environment with the service and its workers, in .venv

# The stamp comes last and the marker goes last, so a set-up that was interrupted starts afresh. What is imported is
# compiled then; compiling all of it here would take most of the time.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "lrtune needs Python 3.11 or newer and found none; name one with PYTHON=..."; exit 1; }
	@if test -e $(VENV)/.unfinished; then rm -rf $(VENV); fi
	@echo "Setting up $(VENV); the first time this downloads PyTorch and takes some minutes."
	@$(PYTHON) -m venv $(VENV)
	@touch $(VENV)/.unfinished
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[app,worker]'
	@rm $(VENV)/.unfinished
	@touch $@

# The tests also run the frameworks that answers are exported to: some hundred MB that the service does without.
$(ALL): $(READY)
	@echo "Adding what the tests need; this downloads Keras, JAX, Transformers and others."
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[app,worker,dev]'
	@touch $@

demo: setup ## tune a real network through the real server, worker and database, and see the answer
	@$(BIN)/python demo.py

test: $(ALL) ## the whole suite, on SQLite and on a real PostgreSQL
	@$(BIN)/pytest -q -n 4 --dist loadfile -m 'not slow and not gpu'

slow: $(ALL) ## the tests that take longest: Ray, SLURM, examples of the frameworks
	@$(BIN)/pytest -q -m 'slow and not gpu'

test-gpu: $(ALL) ## the tests that need a GPU of this machine
	@$(BIN)/pytest -q -m gpu

check: $(ALL) ## format, lint, types, floors between the parts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

up: ## the whole service in Docker; PROFILE=gpu for a worker on the GPU
	@docker compose --profile $(PROFILE) up --build

bench: setup ## the benchmarks behind the numbers in the docs
	@$(BIN)/python -m benchmarks.job_read

MINUTES ?= 3
FAULTS ?=
SEED ?=
chaos: $(ALL) ## faults drawn from a seed against the whole service, MINUTES or FAULTS for each database
	@$(BIN)/python -m benchmarks.chaos --minutes $(MINUTES) $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED))

soak: $(ALL) ## memory and open files of server and workers, MINUTES for each database
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

clean: ## remove the virtual environment and every cache; your data in .lrtune stays
	@rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
