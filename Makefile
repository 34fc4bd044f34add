# Every target is what CI runs too. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup tools demo test agent-only lint format bench proto generated-unchanged guests examples clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 22

$(STAMP): pyproject.toml constraints.txt
	PYTHON=$(PYTHON) deploy/install-tools.sh venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP) ## Create .venv with everything pinned in constraints.txt

tools: ## Install the Debian packages that targets need, or name them and stop
	deploy/install-tools.sh

demo: $(STAMP) ## A fleet on this machine: enrol, roll out, classify, canary to a better model
	@$(BIN)/kedge demo $(ARGS)

test: $(STAMP) ## All tests; T narrows them: make test T=tests/unit
	deploy/install-tools.sh test
	$(BIN)/pytest -n 2 --dist loadgroup $(or $(T),tests)

agent-only: ## An environment with kedge[agent] alone has nothing of the control plane, and starts
	$(PYTHON) -m venv --clear .venv-agent
	.venv-agent/bin/python -m pip install --quiet --constraint constraints.txt '.[agent]'
	.venv-agent/bin/python tests/agent_only.py

lint: $(STAMP) ## ruff, format check, mypy strict, layers, spelling
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache && $(BIN)/codespell

format: $(STAMP) ## Format and apply safe fixes
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(STAMP) ## Run a benchmark: make bench BENCH=swap
	@$(BIN)/python -m tests.benchmarks $(BENCH)

proto: ## Regenerate the protobuf code from proto/ (own environment, pinned generator)
	proto/generate.sh

generated-unchanged: proto ## Check that the generated code is what its sources make
	git diff --exit-code -- proto

guests: ## Rebuild the WebAssembly components under wit/components/
	deploy/install-tools.sh guests
	wit/components/build.sh

examples: $(STAMP) ## Rebuild docs/examples/digits (trains the two small models)
	$(BIN)/python docs/examples/digits/build.py

clean: ## Remove environments and build output
	rm -rf $(VENV) .venv-proto build dist target
