# make demo   the main job on the weights that ship      make test   every check and every test
PY := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo lint check test clean

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make .venv with the pinned versions (once; the others do it by themselves)
	@scripts/setup.sh

demo: setup  ## Compare the policies that ship, in closed loop, and write the report page
	@$(PY)/actloop demo

lint: setup  ## Style, types and import directions
	$(PY)/ruff check .
	$(PY)/ruff format --check .
	$(PY)/mypy
	$(PY)/lint-imports

check: lint  ## lint, and the tests that take no more than seconds each
	$(PY)/pytest -m "not slow and not gpu"

test: lint  ## lint, and every test
	$(PY)/pytest

clean:  ## Remove .venv and what the tools keep (recordings and runs stay)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist src/*.egg-info
	find src tests -name __pycache__ -prune -exec rm -rf {} +
