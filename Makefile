# VENV=path lets several clones share one environment (it is about 6 GB).
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CORES ?= all
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
export PATH := $(abspath $(BIN)):$(PATH)
export PYTHONPATH := $(CURDIR)/src

.PHONY: help install demo test kill-test trend bench bench-growth bench-gpu lint clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# The stamp holds the lock's checksum: a shared environment is installed once per lock. PYTHONPATH
# lets each clone import its own code whichever of them made the environment.
STAMP := $(BIN)/.cxrmim-installed
SUM := $(shell cat requirements.lock pyproject.toml | cksum)

install: ## create VENV and install from the lock
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(SUM)" ]; then \
	  set -e; \
	  $(PYTHON) -c 'import sys; sys.exit("cxrmim needs Python 3.11 or later: make PYTHON=..." if sys.version_info < (3, 11) else 0)'; \
	  [ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
	  echo "installing into $(VENV) (about 3 minutes, 6 GB)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	  echo "$(SUM)" > $(STAMP); \
	fi

demo: install ## the papers' tables from phantom data, 8 to 12 minutes on 2 cores
	@$(SNAKEMAKE) --config scale=demo
	@$(BIN)/cxrmim compare --scale demo
	@echo "tables: results/demo/tables/*.md    page: results/demo/report/index.html"

test: install ## lint, types, unit tests, a tiny workflow end to end
	$(BIN)/python -m pytest -n 2

KILLS ?= 10
kill-test: install ## SIGKILL a run of a tiny grid KILLS times, go on, compare with an undisturbed run
	@folder=$$(mktemp -d) && $(BIN)/python -m tests.workflow.killing --kills $(KILLS) --seed 0 --folder $$folder --report $(or $(REPORT),$$folder/report.json) && rm -rf $$folder

trend: install ## does learning happen? three pretraining seeds, about 33 minutes on 2 cores
	@$(SNAKEMAKE) --config scale=trend
	@cat results/trend/tables/trend.md results/trend/tables/trend_retrieval.md results/trend/tables/trend_cost.md

bench: install ## speed of every stop on this machine's CPU, under 15 minutes; writes results/bench and docs/speed.md
	@$(BIN)/python -m benchmarks; status=$$?; $(BIN)/python -m benchmarks --document; exit $$status

bench-growth: install ## how costs grow with images, runs and seeds; writes results/bench and docs/speed.md
	@$(BIN)/python -m benchmarks --growth; status=$$?; $(BIN)/python -m benchmarks --document; exit $$status

bench-gpu: install ## training and loading on one GPU; writes results/bench and docs/speed.md
	@$(BIN)/python -m benchmarks --gpu; status=$$?; $(BIN)/python -m benchmarks --document; exit $$status

lint: install ## formatters, in place
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/snakefmt Snakefile workflow

clean: ## remove what runs wrote and git does not track (results in git stay)
	rm -rf .snakemake results/*/phantom results/*/building results/*/training results/*/features results/*/spare results/*/journal
	find results -path '*/artifacts/*' -type f ! -name '*.dvc' ! -name .gitignore -delete
