# make quickstart   install, train the quickstart sweep, print its table and the path of its report
# make test         install what tests need and run them
# PYTHON and VENV may be given: make test PYTHON=python3.12 VENV=.venv-3.12
# TESTS='-m "not slow"' runs a part of them
# make exact        the tests that promise numbers bitwise once more, compiled as users' programs are
# EXTRAS=test,parity installs PyTorch too, and the tests that compare with it run instead of being skipped

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
OUT ?= results/quickstart
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help quickstart install test exact lint clean

help:
	@sed -n 's/^# //p' Makefile

quickstart: $(VENV)/.installed
	@$(BIN)/lrlab sweep quickstart --out $(OUT)
	@$(BIN)/lrlab report $(OUT)

install: $(VENV)/.installed

test: $(VENV)/.installed-$(EXTRAS)
	$(PYTEST) $(TESTS)

exact: $(VENV)/.installed-$(EXTRAS)
	LRLAB_TEST_EXACT=1 $(PYTEST) -m exact

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: give another one, as in make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv package"; exit 1; }

$(VENV)/.installed: $(BIN)/python $(INPUTS)
	@echo "installing into $(VENV) (about a minute)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-$(EXTRAS): $(BIN)/python $(INPUTS)
	@echo "installing what tests need into $(VENV)"
	@$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(BIN)/python $(INPUTS)
	@echo "installing the development tools into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test
