# Two commands do all the set-up on a fresh machine: make demo, make test.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint unit servers simulation bench compose-test clean
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

test: lint servers  ## everything, real servers included
	$(BIN)/python -m pytest -n 2 --dist worksteal

unit: $(VENV)/test  ## what needs no server
	$(BIN)/python -m pytest -n 2 tests/unit tests/contract

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
