# Everything is installed into .venv; nothing on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests start hundreds of processes: none is to compile Knowlex anew.
unexport PYTHONDONTWRITEBYTECODE
# As the command line has it, and for the same reason.
test: export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench soak clean

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml configs/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Knowlex needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing everything into $(VENV): 2.3 GB, which takes minutes; pip says nothing meanwhile'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c configs/constraints.txt -e '.[code,server,dev]'
	@touch $(STAMP)

demo: $(STAMP) ## ingest the sample documents and ask them a question
	@$(BIN)/python -m knowlex.demo

# A process more than two cores: some tests wait for a lease or a clock, and while they do another one runs.
test: JOBS ?= 3
test: $(STAMP) ## run every test that fits in a few minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -q -m 'not soak'

lint: $(STAMP) ## ruff, pyright (strict), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure speed and quality, as ratios within one run
	$(BIN)/python -m benchmarks

# No more than two cores: what it measures would wait for the others.
soak: JOBS ?= 2
soak: $(STAMP) ## the reliability tests in full, and the table of what they showed (hours; ROWS=1-16 for some rows)
	$(BIN)/python -m pytest -n $(JOBS) --dist load -q -m 'soak or proof' $(if $(ROWS),--rows $(ROWS))

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
