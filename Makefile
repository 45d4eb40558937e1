# Flash Call Relay. `make help` lists the commands.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Without compiled modules SAM starts seconds slower.
unexport PYTHONDONTWRITEBYTECODE

# Python 3.11 or later that can make virtual environments.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c '$(USABLE)' 2>/dev/null && { echo $$p; break; }; done)

DEV := .venv/dev/bin
STACK_TOOLS := .venv/dev/ready .venv/sam/ready .venv/emulator/ready
CHECK_TOOLS := $(STACK_TOOLS) .venv/runtime/ready .venv/scan/ready
RESULTS ?= 400
N ?= 10000
SECONDS ?= 300

.PHONY: help setup demo up test check quick lint types soak bench fuzz audit clean ready

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STACK_TOOLS) ## Run the relay end to end on this machine (RESULTS=400)
	@PYTHONPATH=src $(DEV)/python -m local.demo --results $(RESULTS)

up: $(STACK_TOOLS) ## Run the relay on this machine until Ctrl-C
	@PYTHONPATH=src $(DEV)/python -m local.demo.playground

test: ## Set up, lint, check types, run all tests (CI runs this)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target setup
	@$(MAKE) --no-print-directory check

check: ready lint types ## Do the same without the set-up
	@$(DEV)/python -m pytest || { echo "Run one of them again: $(DEV)/python -m pytest -n0 TEST"; exit 1; }

quick: NEEDED := .venv/dev/ready
quick: ready ## Lint, types and unit tests (without the alarms), in 20 seconds
	@$(DEV)/ruff check . && $(DEV)/ruff format --check . && $(DEV)/mypy
	@$(DEV)/python -m pytest -q --numprocesses=4 --dist=worksteal --ignore=tests/unit/test_alarms.py tests/unit || { echo "Run one of them again: $(DEV)/python -m pytest -n0 TEST"; exit 1; }

soak: $(STACK_TOOLS) .venv/runtime/ready ## Check the promises under every fault together (N=10000 SEED= KEEP=)
	@PYTHONPATH=src $(DEV)/python -m local.soak --results $(N) $(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep "$(KEEP)")

bench: $(STACK_TOOLS) .venv/runtime/ready .venv/bench/ready ## Measure CPU, rate and cold start beside the alternatives
	@PYTHONPATH=src $(DEV)/python -m local.bench

fuzz: .venv/fuzz/ready ## Fuzz all code that reads outside input (SECONDS=300)
	@PYTHONPATH=src .venv/fuzz/bin/python -m tests.fuzz --seconds $(SECONDS)

audit: .venv/audit/ready ## Look for known vulnerabilities in the requirements
	@# Without --strict pip-audit passes packages that it cannot look up.
	@.venv/audit/bin/pip-audit --strict --requirement local/requirements/dev.txt

setup: $(CHECK_TOOLS) ## Make the virtual environments (other commands make those they need)

clean: ## Remove all files that the other commands made
	@rm -rf .venv .local .fuzz build flash_call_relay.egg-info .aws-sam .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find local ops sandbox src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# These two run the function's package, with the function's own version of Python if this machine has it.
.venv/runtime/ready .venv/bench/ready: VENV_PYTHON = $(or $(shell $(MAKE) --silent --directory=src function-python),$(PYTHON))
VENV_PYTHON = $(PYTHON)

# Several environments, since the SAM CLI, the emulator and the scanner pin other versions of boto3 than the relay.
.venv/%/ready: local/requirements/%.txt src/requirements.txt src/constraints.txt ops/requirements.txt
	@test ! -L .venv || { echo ".venv is a link; this checkout must not rebuild its target."; exit 1; }
	@$(PYTHON) -c '$(USABLE)' 2>/dev/null || { echo "'$(PYTHON)' is not Python 3.11 or later with venv" \
		"(Debian: apt-get install python3-venv). Choose another with make PYTHON=/path/to/python3."; exit 1; }
	@echo "==> setting up .venv/$* (once; about half a minute)"
	@rm -rf .venv/$* && $(VENV_PYTHON) -m venv .venv/$*
	@.venv/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@# The operators' command, flash-call-relay, runs from this checkout.
	@test $* != dev || .venv/dev/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

ready:
	@ls $(or $(NEEDED),$(CHECK_TOOLS)) >/dev/null 2>&1 || { echo "Not set up yet: run 'make setup', or 'make test' for the set-up and all checks."; exit 1; }

lint:
	@echo "==> ruff" && $(DEV)/ruff check . && $(DEV)/ruff format --check .
	@echo "==> cfn-lint" && .venv/sam/bin/cfn-lint
	@echo "==> checkov" && .venv/scan/bin/checkov --config-file .checkov.yaml
	@echo "==> zizmor" && .venv/scan/bin/zizmor --offline --quiet .github

types:
	@echo "==> mypy --strict" && $(DEV)/mypy
