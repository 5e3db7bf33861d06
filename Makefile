# Everything a person types here. The virtual environment is made when it is missing and renewed when
# pyproject.toml or constraints.txt changes; `run` installs the product only, the other targets add the test tools.

.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 8000
ARGS ?=
NOTEBOOKS ?= notebooks

# Tests start hundreds of processes: each would compile the code anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
PRODUCT := $(VENV)/.product-installed
TOOLS := $(VENV)/.tools-installed
LAB := $(VENV)/.lab-installed

.PHONY: help
help: ## List these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 chooses the interpreter, PORT=8001 the port of run, ARGS=… adds options to test, drills, lab and the benchmarks"

.PHONY: run
run: $(PRODUCT) ## Start the demo on http://127.0.0.1:8000 (PORT=8001 elsewhere)
	@$(BIN)/gateway demo --port $(PORT)

.PHONY: test
test: check ## Lint, types and import contract, then every test but the drills
	@$(BIN)/python -m pytest $(BESIDE) $(ARGS)

# Three at a time, on two cores: one of them waits for something. Each has long enough for a noisy machine.
DRILL = $(BIN)/python -m pytest --timeout 1200 --durations 10 $(ARGS)
BESIDE := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: drills
drills: $(TOOLS) ## Run the long tests, and all faults on PostgreSQL and Redis with two workers
	@$(DRILL) tests -m "drill and alone"
	@$(DRILL) tests -m "drill and not alone" $(BESIDE)
	@TEST_RIG=cluster $(DRILL) tests/faults tests/clients $(BESIDE)
	@TEST_RIG=cluster $(DRILL) tests/drills/test_kills.py tests/drills/test_outages.py tests/drills/test_chaos.py -m drill $(BESIDE)

.PHONY: chaos
chaos: $(TOOLS) ## Break five hundred things under load (CHAOS_FAULTS=… others, CHAOS_SEED=… the same), and check the books
	@CHAOS_FAULTS=$${CHAOS_FAULTS:-500} TEST_RIG=cluster $(BIN)/python -m pytest tests/drills/test_chaos.py -m drill -s $(ARGS)

.PHONY: check
check: $(TOOLS) ## Lint, formatting, types, import contract, and what notebooks may hold
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m tests.notebooks.tidy

.PHONY: format
format: $(TOOLS) ## Rewrite the code in the house's format
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/python -m tests.notebooks.tidy --strip

.PHONY: bench
bench: $(TOOLS) ## Measure the gateway against a bare pass-through (ARGS="--help" lists the options)
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: bench-peers
bench-peers: $(TOOLS) ## Measure the gateway beside LiteLLM's proxy and Portkey's gateway; installs them under var/
	@$(BIN)/python -m tests.bench --peers --postgres $(ARGS)

.PHONY: screenshots
screenshots: $(TOOLS) ## Take pictures of the dashboard's pages, light and dark, into gateway/dashboard/screenshots
	@$(BIN)/python -m tests.dashboard.screenshots

.PHONY: sample
sample: $(PRODUCT) ## Make the sample database of notebooks and reports (var/sample.db)
	@$(BIN)/python -c "from ops.sample_data import make_sample; print(make_sample())"

.PHONY: lab
lab: $(LAB) ## Open the notebooks in JupyterLab, on the demo's database (ARGS="--no-browser --port 8899" for it, NOTEBOOKS=… for a folder of copies)
	@$(BIN)/gateway demo --prepare
	@$(BIN)/jupyter lab --ServerApp.root_dir=$(NOTEBOOKS) --LabApp.news_url= \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(ARGS)

.PHONY: notebooks
notebooks: $(TOOLS) ## Run the notebooks on the sample, and store the outputs that are compared (ARGS="03_usage_and_margin" only some)
	@$(BIN)/python -m tests.notebooks.tidy --run $(ARGS)

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
	@echo "Installing the gateway (a minute, this once) …"
	@$(PIP) -e .
	@touch $@

$(TOOLS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the gateway and the test tools (a few minutes, this once) …"
	@$(PIP) -e '.[test]'
	@touch $(PRODUCT) $(LAB) $@

$(LAB): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the gateway and JupyterLab (a few minutes, this once) …"
	@$(PIP) -e '.[notebooks]'
	@touch $(PRODUCT) $@
