# `make help` lists the commands. Each sets up .venv by itself: Python >= 3.11 and make are all it takes.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-quick lint format docs docs-serve bench bench-images bench-empirical bench-flows bench-torch bench-scaling lock clean
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?=
ARGS ?=
# V=1 shows all that pip says; else only its warnings and errors.
V ?=
# Workers of the tests; 0 runs them in one process.
WORKERS ?= 2

RUN := .venv/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install $(if $(V),,-q) -c constraints.txt

help: ## list the commands
	@echo "ntkit: make COMMAND"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14
	@echo "PYTHON=path chooses the interpreter; ARGS='...' is passed on to demo, test and bench; V=1 shows what pip does."

demo: .venv/.stamp-core ## kernels, model choice and predictions on handwritten digits
	@.venv/bin/ntkit demo $(ARGS)

test: .venv/.stamp-test ## run the tests
	@$(RUN) -m pytest -n $(WORKERS) -m "not exhaustive" $(ARGS)

test-all: .venv/.stamp-test ## run the tests, and the cases that show once more what others show (tests/exhaustive.txt), compiled as for users
	@NTKIT_TEST_OPTIMIZED=1 $(RUN) -m pytest -n $(WORKERS) $(ARGS)

test-quick: .venv/.stamp-test ## run the tests that take less than ten seconds each
	@$(RUN) -m pytest -n $(WORKERS) -m "not slow and not exhaustive" $(ARGS)

lint: .venv/.stamp-lint ## check style (ruff) and types (pyright)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m pyright

format: .venv/.stamp-lint ## mend what ruff can mend
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

docs: .venv/.stamp-docs ## build the documentation into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

docs-serve: .venv/.stamp-docs ## serve the documentation on localhost while you write
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs serve

bench: .venv/.stamp-bench ## compare speed with the peers, into docs/benchmarks/
	@$(RUN) benchmarks/run.py $(ARGS)

bench-images: .venv/.stamp-bench ## the same for networks of images
	@$(RUN) benchmarks/images.py $(ARGS)

bench-empirical: .venv/.stamp-bench ## the same for the empirical NTK of JAX functions
	@$(RUN) benchmarks/empirical.py $(ARGS)

bench-flows: .venv/.stamp-bench ## the same for training in function space
	@$(RUN) benchmarks/flows.py $(ARGS)

bench-torch: .venv/.stamp-test ## the same for the empirical NTK of torch modules, with peak memory
	@$(RUN) benchmarks/empirical_torch.py $(ARGS)

bench-scaling: .venv/.stamp-bench ## how the time of image kernels grows with depth, side and number
	@$(RUN) benchmarks/scaling.py $(ARGS)

lock: ## write constraints.txt anew from .venv, after you have upgraded it
	@$(RUN) tools/lock.py

clean: ## remove what the other commands made, .venv included
	rm -rf .venv build dist site ntkit-demo .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The extras are installed one by one, each when it is first needed. A stamp is older than what it was made from
# as soon as pyproject.toml or constraints.txt changes.
.venv/.stamp-core: EXTRA :=
.venv/.stamp-test: EXTRA := [test]
.venv/.stamp-lint: EXTRA := [lint]
.venv/.stamp-docs: EXTRA := [docs]
.venv/.stamp-bench: EXTRA := [bench]
.venv/.stamp-core .venv/.stamp-test .venv/.stamp-lint .venv/.stamp-docs .venv/.stamp-bench: .venv/.stamp-venv
	@echo "Installing ntkit$(EXTRA) into .venv (once; a few minutes on a slow line)"
	@$(PIP) --no-build-isolation -e ".$(EXTRA)"
	@touch $@

# A .venv without a working pip is what an interrupted set-up leaves behind: it is made again.
.venv/.stamp-venv: pyproject.toml constraints.txt
	@if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	  python=$$(sh tools/find-python.sh $(PYTHON)) || exit 1; \
	  echo "Creating .venv with $$python"; \
	  rm -rf .venv && "$$python" -m venv .venv; \
	fi
	@$(PIP) hatchling
	@touch $@
