# One environment in .venv; its stamp is renewed when what is to be installed changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
CONFIG ?= pipelines/configs/demo.yaml
RUN_DIR ?= runs/demo

.PHONY: help setup demo lint test test-quick test-cluster chaos bench bench-data ui clean

help: ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install the project and everything it needs in .venv

$(STAMP): pyproject.toml infra/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint infra/constraints.txt --editable '.[cluster,dev]'
	touch $(STAMP)

demo: setup ## run the whole pipeline on drawn portraits (CONFIG=FILE for another configuration)
	$(BIN)/python pipelines/full.py --config $(CONFIG)

lint: setup ## check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## check style, types, layers and behaviour (some 20 minutes)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-quick: setup ## run the tests that need neither Ray nor long trainings (some 3 minutes)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'not cluster and not slow' --ignore tests/e2e

# PostgreSQL's test is skipped without Debian's postgresql.
test-cluster: setup ## run the tests on a cluster of two nodes with S3 and PostgreSQL
	$(BIN)/python -m pytest -m cluster tests/e2e

chaos: setup ## run the four stages while workers, drivers and nodes are killed (half an hour)
	$(BIN)/python -m tests.e2e.chaos

bench: setup ## measure training steps and restoring beside the public reference's way
	@$(BIN)/python -m infra.benchmarks training

bench-data: setup ## measure making and reading samples (FACES=FOLDER instead of drawn portraits)
	@$(BIN)/python -m infra.benchmarks data $(FACES)

ui: setup ## show the demo's runs in MLflow (RUN_DIR=FOLDER for another run's)
	cd '$(RUN_DIR)' && '$(abspath $(BIN))/mlflow' ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

# The caches of tools alone: what is in runs/ may be models that took weeks.
clean: ## remove the caches of tools
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
