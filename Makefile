# `make search` and `make test` work from a clean clone: they set up .venv from constraints.txt once.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= runs/demo
BUDGET ?= 10m

.PHONY: help search test test-quick lint format bench system clean

help:
	@echo "make search      search the demo on this machine ($(BUDGET)), run folder $(OUT)"
	@echo "make test        every test            make test-quick  without the slow ones"
	@echo "make lint        ruff, mypy, layers    make format      format the code"
	@echo "make bench       speed and memory      make system      optional system packages"

search: $(STAMP)
	$(BIN)/autocompress search --target local --budget $(BUDGET) --out $(OUT)
	@echo "Report: $(abspath $(OUT))/report.html"

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-quick: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(STAMP)
	PYTHON=$(BIN)/python scripts/bench

system:
	scripts/install_system_packages

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt scripts/setup_venv
	scripts/setup_venv $(VENV)
