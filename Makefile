# make report | make test | make lab: each sets up .venv by itself the first time, and again when the dependencies change.

PYTHON ?= python3
PROFILE ?= smoke
JOBS ?= 2
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.PHONY: setup report test test-slow check lab clean

report: $(READY)  ## every notebook through papermill, HTML reports in notebooks/reports
	$(BIN)/seedvr2-lab report --profile $(PROFILE) --jobs $(JOBS)

test: $(READY) check  ## all checks and tests
	$(BIN)/python -m pytest -n 2

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb

lab: $(READY)  ## JupyterLab in notebooks/
	$(BIN)/jupyter lab --notebook-dir notebooks

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: install a newer one and run  make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing: install it, on Debian or Ubuntu with  apt install python3-venv"; exit 2; }
	@echo "setting up $(VENV) (once, several minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:  ## remove what the targets above made
	rm -rf $(VENV) notebooks/reports/[!p]* runs build *.egg-info .pytest_cache .ruff_cache .hypothesis
