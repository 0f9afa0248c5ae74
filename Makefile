# make quickstart: install into .venv and train the shipped model on ToolWorld.  make test: all checks.
PYTHON ?= python3
VENV ?= .venv
# The tested version; on a machine without a GPU, torch's own CPU build (see its install page) spares several GB:
#   make test TORCH="torch==2.13.0 --index-url URL"
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: quickstart test

quickstart: $(VENV)/.installed
	$(BIN)/python -m cahl_pl fit -c configs/quickstart.yaml

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@
