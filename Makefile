# All set-up happens here: every target that needs Python makes .venv first and re-uses it.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help train test test-slow lint types benchmark clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

train: $(STAMP)  ## Set up, then run the main job on the embedded demo dataset (ARGS="--option value").
	$(BIN)/python -m tfrec.train $(ARGS)

test: lint types  ## Set up, then ruff, mypy and the tests (ARGS="tests/data").
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-slow: $(STAMP)  ## The tests marked slow.
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP)  ## ruff: style and format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict on tfrec/.
	$(BIN)/mypy

benchmark: $(STAMP)  ## Every figure that the README quotes (minutes to an hour).
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:  ## Remove the virtual environment and caches; runs/ stays.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
