# One environment in .venv, made from the lock in requirements/.
.DEFAULT_GOAL := help
.PHONY: help install parties simulate test lint bench docs clean

PYTHON ?= python3.11 python3
BIN := .venv/bin
INSTALLED := .venv/.installed
is_311 := import sys; sys.exit(sys.version_info[:2] != (3, 11))

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 17

install: $(INSTALLED)  ## create .venv from the lock (two minutes, once)
	@echo "fedpipe is installed in .venv"

simulate: $(INSTALLED)  ## run a federation on this machine; ARGS="--help" lists the options
	@$(BIN)/python -m fedpipe.simulate $(ARGS)

parties: $(INSTALLED)  ## create the environment of encrypted prediction's parties (a minute, once)
	@$(BIN)/fedpipe encrypted install || echo "Tests of encrypted prediction with real parties are left out" >&2

test: parties  ## run all tests and doctests; ARGS='-m "not slow"' leaves out whole runs
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(INSTALLED)  ## check style, types and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --strict fedpipe clients server simulations
	@$(BIN)/lint-imports

bench: $(INSTALLED)  ## measure speed, as ratios taken side by side
	@$(BIN)/python -m simulations.benchmarks $(ARGS)

docs: $(INSTALLED)  ## check the documentation: its links, commands and doctests
	@$(BIN)/python -m pytest tests/unit/test_docs.py fedpipe clients server simulations $(ARGS)

clean:  ## remove caches and builds; .venv and workspaces stay
	@rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# An install that was cut short may look complete to pip: .unfinished says so, and the next one starts afresh.
$(INSTALLED): pyproject.toml requirements/main.txt requirements/dev.txt
	@echo "Installing fedpipe into .venv (about two minutes the first time)"
	@if [ -e .venv/.unfinished ] || ! $(BIN)/python -c 'import pip; $(is_311)' 2>/dev/null; then \
	  for python in $(PYTHON) ""; do "$$python" -c '$(is_311)' 2>/dev/null && break; done; \
	  [ "$$python" ] || { echo "fedpipe needs CPython 3.11; set PYTHON=/path/to/python3.11 (tried: $(PYTHON))" >&2; exit 1; }; \
	  "$$python" -m venv --clear .venv; \
	fi
	@touch .venv/.unfinished
	@$(BIN)/python -m pip install -qq --no-deps -r requirements/dev.txt
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@mv .venv/.unfinished $@
