# make quickstart: install into .venv and train the shipped model on ToolWorld.  make test: all checks.
# make docs, wheel: build both, and train from the wheel.  make canary, floor: the same code on the newest and the oldest libraries.
PYTHON ?= python3
VENV ?= .venv
# The tested version; on a machine without a GPU, torch's own CPU build (see its install page) spares several GB:
#   make test TORCH="torch==2.13.0 --index-url URL"
TORCH ?= torch==2.13.0
TORCH_NEWEST ?= torch
TORCH_FLOOR ?= torch==2.9.0
BIN := $(VENV)/bin
# Every package but torch, whose build depends on the machine, in the version that all this was tested with.
PIP_TESTED := $(BIN)/python -m pip install --constraint $(CURDIR)/constraints.txt
TWO_STEPS := --trainer.max_steps 2 --data.test.test.init_args.size 10 --data.test.test_unseen_tools.init_args.size 10

.PHONY: quickstart test docs wheel canary floor constraints

quickstart: $(VENV)/.installed
	$(BIN)/python -m cahl_pl fit -c configs/quickstart.yaml

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

docs: $(VENV)/.installed-dev
	$(PIP_TESTED) -e ".[docs]"
	$(BIN)/mkdocs build --strict --quiet -f .ci/mkdocs.yml

# The wheel, installed outside of this folder, trains, reports and exports. OUTSIDE is emptied first.
wheel: OUTSIDE ?= $(VENV)-wheel
wheel: $(VENV)/.installed-dev
	rm -rf $(OUTSIDE) && mkdir -p $(OUTSIDE)
	$(BIN)/python -m build --wheel --no-isolation --outdir $(OUTSIDE) .
	$(PYTHON) -m venv $(OUTSIDE)/venv
	$(OUTSIDE)/venv/bin/python -m pip install $(TORCH)
	$(OUTSIDE)/venv/bin/python -m pip install --constraint constraints.txt "$$(echo $(OUTSIDE)/cahl_pl-*.whl)[report]"
	cd $(OUTSIDE) && PATH="$(abspath $(OUTSIDE))/venv/bin:$$PATH" && cahl-pl fit -c quickstart $(TWO_STEPS) && \
	  cahl-pl report runs/quickstart/version_0 && cahl-pl export --out adapters -c quickstart --ckpt_path last && \
	  cahl-pl plan-memory -c quickstart && cahl-pl show-prompt -c quickstart

# The newest of everything: no constraints, no caps; warnings are listed and not fatal.
canary: VENV := .venv-canary
canary:
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install $(TORCH_NEWEST)
	$(VENV)/bin/python -m pip install --upgrade $$($(PYTHON) -m tools.make.dependencies)
	$(VENV)/bin/python -m pip install --no-deps -e .
	$(MAKE) --no-print-directory two-steps-and-fast-tests VENV=$(VENV)

# The oldest direct dependencies that pyproject.toml declares.
floor: VENV := .venv-floor
floor:
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install uv "$(TORCH_FLOOR)"
	$(VENV)/bin/uv pip install --python $(VENV)/bin/python --resolution lowest-direct "$(TORCH_FLOOR)" -e ".[dev]"
	$(MAKE) --no-print-directory two-steps-and-fast-tests VENV=$(VENV)

.PHONY: two-steps-and-fast-tests
two-steps-and-fast-tests:
	$(BIN)/python -m pip list
	$(BIN)/python -m cahl_pl fit -c configs/quickstart.yaml $(TWO_STEPS)
	$(BIN)/python -m pytest -m "not slow" -W default

# constraints.txt anew, of what was published until UNTIL. What belongs to a build of torch is left out: torch pins it itself.
constraints: UNTIL ?= $(shell date +%Y-%m-%d)
constraints: $(BIN)/python
	$(BIN)/python -m pip install uv
	echo "$(TORCH)" > $(VENV)/torch.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 -c $(VENV)/torch.txt \
	  --exclude-newer $(UNTIL) --no-emit-package torch --no-annotate --no-header > $(VENV)/resolved.txt
	(echo "# Made by: make constraints UNTIL=$(UNTIL). The versions that everything was tested with; torch is chosen apart."; \
	  grep -vE '^(nvidia|cuda|triton)' $(VENV)/resolved.txt) > constraints.txt

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(TORCH)
	$(PIP_TESTED) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_TESTED) -e ".[dev]"
	touch $@
