# Everything a person types here. The virtual environment is made when it is missing and renewed when
# pyproject.toml or constraints.txt changes; `run` installs the product only, the other targets add the test tools.

.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 8000
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
PRODUCT := $(VENV)/.product-installed
TOOLS := $(VENV)/.tools-installed

.PHONY: help
help: ## List these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 chooses the interpreter, PORT=8001 the port of run, ARGS=… adds options to test, drills and bench"

.PHONY: run
run: $(PRODUCT) ## Start the demo on http://127.0.0.1:8000 (PORT=8001 elsewhere)
	@$(BIN)/gateway demo --port $(PORT)

.PHONY: test
test: check ## Lint, types and import contract, then every test but the drills
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

.PHONY: drills
drills: $(TOOLS) ## Run the long tests one after another: soak, chaos, kills, large data, fuzz
	@$(BIN)/python -m pytest -m drill --timeout 1200 --durations 10 $(ARGS)

.PHONY: check
check: $(TOOLS) ## Lint, formatting, types and import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(TOOLS) ## Rewrite the code in the house's format
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(TOOLS) ## Measure the gateway against a bare pass-through (ARGS="--help" lists the options)
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: clean
clean: ## Remove the virtual environment and caches; data under var/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 …" >&2; exit 2; }
	@echo "Creating $(VENV) …"
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Could not create $(VENV); on Debian: apt install python3-venv" >&2; exit 2; }

$(PRODUCT): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the gateway …"
	@$(PIP) -e .
	@touch $@

$(TOOLS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the gateway and the test tools …"
	@$(PIP) -e '.[test]'
	@touch $(PRODUCT) $@
