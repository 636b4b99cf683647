# `make demo`: from nothing to a live service. `make test`: everything the tests need, then all of them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
FRAMEWORKS := torch,onnx,openvino,sklearn,images
EVERYTHING := $(FRAMEWORKS),postgres,s3,otel,parquet,dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# the tests that a busy machine could make fail: they judge a number, or ask for a measurement that can be believed
MEASURING := tests/e2e/test_publish.py $(wildcard tests/integration/test_profile_*.py tests/integration/test_tun*.py \
	tests/integration/test_simulator_*.py) tests/integration/test_design_space.py

.PHONY: help demo test clients check check-fast format docs bench bench-serving bench-tune clean

help:
	@echo "make demo        set up, train a small model, publish it, leave it running"
	@echo "make test        set up, run all tests"
	@echo "make clients     other projects' clients, for the tests that use them (2 GB)"
	@echo "make check       what must hold before a commit: format, lint, types, layers, tests"
	@echo "make check-fast  the same without the tests"
	@echo "make format      format the code"
	@echo "make docs        write the reference part of docs/cli.md from the commands"
	@echo "make bench       the benchmarks of docs/benchmarks.md"
	@echo "make bench-serving  Modelyard's server beside its peers, one table (docs/serving-benchmarks.md)"
	@echo "make bench-tune  regret of every search strategy on spaces that were measured whole (docs/tuning.md)"
	@echo "make clean       remove the virtual environment and everything generated"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Modelyard needs Python 3.11 or newer; found: $$($(PYTHON) --version 2>&1). Try: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# a stamp per set of packages, so that make knows what is there
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[$(FRAMEWORKS)]'
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[$(EVERYTHING)]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python examples/digits/train.py
	$(BIN)/yard publish examples/digits/model.yaml --html digits-report.html
	@echo; echo "yard is $(BIN)/yard here; to have it on the path: . $(BIN)/activate"

# first what measures under load, alone; then the rest, several files at a time: most of it waits for other processes.
# By files, for many of them set up something dear once; in their order, so that the small unit tests fill the end.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(MEASURING)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(addprefix --ignore ,$(MEASURING))

# the tests that call a replica by the clients of KServe and TF Serving; CI has them
CLIENTS := .venv-clients
$(CLIENTS)/.installed: tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps tensorflow-serving-api==2.21.0
	@touch $@

clients: $(CLIENTS)/.installed

check: check-fast test

check-fast: $(VENV)/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/.installed-dev
	$(BIN)/python -m modelyard.cli.reference docs/cli.md

bench: $(VENV)/.installed-dev
	@for name in $(basename $(notdir $(wildcard bench/*.py))); do echo "== $$name"; $(BIN)/python -m bench.$$name || exit 1; done
	$(BIN)/python -m bench.faults

bench-serving: $(VENV)/.installed-dev
	$(BIN)/python -m bench.serving $(ARGS)

bench-tune: $(VENV)/.installed-dev
	$(BIN)/python -m bench.tune $(ARGS)

clean:
	rm -rf $(VENV) $(CLIENTS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f digits-report.html examples/*/*.pt2 examples/*/*.npz examples/*/*.ubj examples/*/*.safetensors examples/*/*.skops examples/*/*.html
	find src tests examples bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
