# One environment in .venv; its stamp is renewed when what is to be installed changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
CONFIG ?= pipelines/configs/demo.yaml
RUN_DIR ?= runs/demo

.PHONY: setup demo test test-cluster chaos lint bench-data ui clean

setup: $(STAMP)

$(STAMP): pyproject.toml infra/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint infra/constraints.txt --editable '.[cluster,dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/python pipelines/full.py --config $(CONFIG)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# What needs minutes and servers: a cluster of two nodes, S3, PostgreSQL (skipped without Debian's postgresql).
test-cluster: setup
	$(BIN)/python -m pytest -m cluster tests/e2e

# The four stages while workers, drivers and nodes are killed; half an hour.
chaos: setup
	$(BIN)/python -m tests.e2e.chaos

# FACES=FOLDER takes those instead of drawn portraits.
bench-data: setup
	@$(BIN)/python -m daefr bench-data $(FACES)

ui: setup
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(RUN_DIR)/mlflow.db --host 127.0.0.1 --port 5000

# The caches of tools alone: what is in runs/ may be models that took weeks.
clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
