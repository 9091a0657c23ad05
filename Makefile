# Every target sets up what it needs in .venv, from the exact versions in requirements/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GROUPS := run test check bench docs

.PHONY: help $(GROUPS) format lock clean

help:
	@echo "make run    the main job on real data: a plan, progress, numbers, a picture"
	@echo "make test   the tests"
	@echo "make check  format, lint, types, imports, tests"
	@echo "make bench  the benchmarks, into benchmarks/RESULTS.md"
	@echo "make docs   the documentation, into build/docs"
	@echo "make format | lock | clean"

run: $(VENV)/.run
	$(BIN)/python examples/main_job.py

test: $(VENV)/.test
	$(BIN)/python -m pytest

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run --output benchmarks/RESULTS.md

docs: $(VENV)/.docs
	$(BIN)/sphinx-build --fail-on-warning --quiet docs build/docs
	@echo "see build/docs/index.html"

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A stamp says that a group is installed; it is out of date when its versions are.
$(VENV)/.%: requirements/%.txt requirements/build.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/build.txt -r $<
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

# New versions for everything: all groups are pinned together, then each takes its part.
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools
	requirements/lock.sh build/lock/bin/pip-compile $(GROUPS)

clean:
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
