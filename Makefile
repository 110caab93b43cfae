# Two commands do all the set-up on a fresh machine: make demo, make test.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests start hundreds of Python processes, which all compile the package where this is set.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint unit unit-system servers simulation bench compose-test clean
.DEFAULT_GOAL := test

$(VENV)/demo: pyproject.toml scripts/environment
	scripts/environment $(PYTHON) $(VENV) -e .
	@touch $@

$(VENV)/test: pyproject.toml scripts/environment
	scripts/environment $(PYTHON) $(VENV) -e '.[test]'
	@touch $@

demo: $(VENV)/demo  ## a rolling restart under load, on the embedded default
	$(BIN)/deregister-agent demo

servers: $(VENV)/test  ## real servers, unpacked into .servers where they are not on PATH
	$(BIN)/python -m tests.servers fetch

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint servers  ## what CI runs, real servers of the newest versions included
	$(BIN)/python -m tests.run -n 4 -m "not nightly"

test-all: lint servers  ## everything: each version of each server, containers, 100,000 worlds
	$(BIN)/python -m pytest -n 4
	$(BIN)/python -m tests.simulation --seeds 100000

unit: $(VENV)/test  ## what needs no server
	$(BIN)/python -m tests.run -n 2 tests/unit

# Not before the first environment is made: both builds write into the same folder.
unit-system: $(VENV)/test  ## the same on the distribution's Python
	$(MAKE) unit PYTHON=/usr/bin/python3 VENV=.venv-system

simulation: $(VENV)/test  ## 100,000 seeds
	$(BIN)/python -m tests.simulation --seeds 100000

compose-test: $(VENV)/test  ## the stack in containers: up, a rolling deploy under load, down
	compose/test

bench: servers  ## the figures, each against its goal
	$(BIN)/python -m bench.latency
	$(BIN)/python -m bench.probe_lag
	$(BIN)/python -m bench.footprint
	$(BIN)/python -m bench.app_cost
	$(BIN)/python -m bench.socket_table
	$(BIN)/python -m bench.nginx_edit
	$(BIN)/python -m bench.rolling_deploy

clean:
	rm -rf .venv* .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
