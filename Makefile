# Everything happens in .venv; each target installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check
.DELETE_ON_ERROR:

quickstart: .venv/installed
	$(BIN)/python -m ray_jobs.run_grid configs/grids/quickstart.yaml

test: .venv/installed-test
	$(BIN)/python -m pytest

check: .venv/installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-%: pyproject.toml .venv/installed
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@
