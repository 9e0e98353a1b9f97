# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or newer with venv, and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check env models

demo: env
	$(BIN)/distill run configs/demo.yaml

test: env
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

env: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

models: env  ## make the embedded teacher and base student again
	$(BIN)/python -m students.embedded.make
