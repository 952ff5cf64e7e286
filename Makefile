# What one does with a checkout. Nothing is needed but Python 3.11 or newer, and make.
# PYTHON=python3.12 makes the environment with another Python; remove .venv to change it later.

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
# What runs the gateway, and what tests it as well. Either file's date says when that was installed.
RUNS := $(VENV)/.installed-to-run
TESTS := $(VENV)/.installed-to-test
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --no-input \
	--require-hashes --only-binary :all:
# The versions in the lock files stay unless asked: make lock ARGS=--upgrade
UV_COMPILE := $(VENV)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" pyproject.toml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(RUNS) ## start the gateway, from nothing; the first start prints a key and a curl to paste
	@exec $(PY) -m gateway serve $(ARGS)

.PHONY: test
test: $(TESTS) ## the whole test suite, from nothing
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

.PHONY: check
check: $(TESTS) ## lint, types and the quick tests, in under a minute
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy
	@set -e; for each in $$(find tests -name conftest.py); do $(PY) -m mypy "$$each"; done
	@$(PY) -m pytest -q -n auto --maxprocesses 4 -m "not faults and not clients and not recorded" \
		tests/test_structure.py tests/accounts tests/ledger tests/wire \
		--ignore tests/wire/test_translation_properties.py $(ARGS)

.PHONY: bench
bench: $(TESTS) ## measure direct, naive proxy, gateway and nginx side by side; one table
	@$(PY) -m bench.run $(ARGS)

.PHONY: dist
dist: $(RUNS) ## one file, dist/gateway.pyz, that runs on a machine with only Python
	@$(PY) -m gateway.packaging.build dist/gateway.pyz

.PHONY: lock
lock: $(TESTS) ## write the lock files anew from pyproject.toml
	@$(UV_COMPILE) --output-file requirements.lock $(ARGS)
	@$(UV_COMPILE) --group test --constraint requirements.lock \
		--output-file tests/requirements.lock $(ARGS)

.PHONY: clean
clean: ## remove what was made here; not gateway.db
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find gateway tests bench -name __pycache__ -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "The gateway needs Python 3.11 or newer; $(PYTHON) is" \
			"$$($(PYTHON) --version 2>/dev/null || echo missing). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making the environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

$(RUNS): requirements.lock | $(PY)
	@echo "Installing what requirements.lock names"
	@$(PIP_INSTALL) -r requirements.lock
	@touch $@

$(TESTS): tests/requirements.lock requirements.lock | $(PY)
	@echo "Installing what tests/requirements.lock names"
	@$(PIP_INSTALL) -r tests/requirements.lock
	@touch $(RUNS) $@
