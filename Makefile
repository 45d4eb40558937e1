# Flash Call Relay. `make help` lists what there is.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help ready setup demo up down bench soak fuzz audit test check lint scan types clean doctor send parked replay discard story pause resume
# Without compiled modules each start of SAM costs seconds.
unexport PYTHONDONTWRITEBYTECODE

# Any Python from 3.11 on that can make virtual environments.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c '$(USABLE)' 2>/dev/null && { echo $$p; break; }; done)

DEV := .venv/dev/bin
ENVIRONMENTS := .venv/dev/ready .venv/sam/ready .venv/emulator/ready
CHECKS := $(ENVIRONMENTS) .venv/runtime/ready .venv/scan/ready
EMULATOR_PORT ?= 4566
ENDPOINT_PORT ?= 8787
RESULTS ?= 400
N ?= 10000
SEED ?=
SECONDS ?= 300

# What is given to a target of the operators' command becomes its options of the same names: REASON=... is --reason.
# So the command itself refuses what it doesn't know.
given = $(foreach word,$(MAKEOVERRIDES),$(foreach name,$(firstword $(subst =, ,$(word))),$(if $(filter command,$(origin $(name))),$(name))))
COMMON := STACK REGION PROFILE
FLAGS := DRY_RUN YES PROBE SKIP_BAD JSON
quoted = '$(subst ','\'',$($1))'
option = --$(shell echo $1 | tr A-Z_ a-z-) $(if $(filter $1,$(FLAGS)),,$(call quoted,$1))
options = $(foreach name,$(filter-out $(COMMON) QUEUE $1,$(given)),$(call option,$(name)))
OPS = @PYTHONPATH=src $(DEV)/python -m ops $(foreach name,$(filter $(COMMON),$(given)),$(call option,$(name)))
QUEUE ?= parked

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(CHECKS) ## Make the virtual environments (the other commands do it as needed)

# One environment each: the SAM CLI, the emulator and the scanner pin other versions of boto3 than the relay.
.venv/%/ready: local/requirements/%.txt src/requirements.txt src/constraints.txt ops/requirements.txt
	@test ! -L .venv || { echo ".venv is a link; it is not for this checkout to rebuild what it points to."; exit 1; }
	@$(PYTHON) -c '$(USABLE)' 2>/dev/null || { echo "Needs Python 3.11 or later with venv (Debian: apt-get install python3-venv)," \
		"and '$(PYTHON)' is none. Name one with make PYTHON=/path/to/python3."; exit 1; }
	@echo "==> setting up .venv/$* (once; about half a minute)"
	@rm -rf .venv/$* && $(PYTHON) -m venv .venv/$*
	@.venv/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

demo: $(ENVIRONMENTS) ## Run the relay end to end on this machine, with RESULTS=400 results, and sum up
	@$(DEV)/python -m local.demo --results $(RESULTS) --emulator-port $(EMULATOR_PORT) --endpoint-port $(ENDPOINT_PORT)

up: $(ENVIRONMENTS) ## Deploy the relay on this machine and leave it running, to play with
	@$(DEV)/python -m local.demo.playground up --emulator-port $(EMULATOR_PORT) --endpoint-port $(ENDPOINT_PORT)

down: ## End what `make up` left running
	@test ! -e .local && echo "Nothing was up." || $(DEV)/python -m local.demo.playground down

test: setup check ## Set up, then all that `make check` does: what CI runs

check: ready lint types ## Lint, types and all tests, without set-up
	@$(DEV)/python -m pytest

bench: $(ENVIRONMENTS) ## Measure what the ledger costs in CPU, beside one POST and Powertools' idempotency
	@PYTHONPATH=src $(DEV)/python -W ignore -m local.bench

soak: $(ENVIRONMENTS) .venv/runtime/ready ## Prove the promises: N=10000 results under every fault at once, in the real Lambda runtime; SEED= repeats a plan
	@PYTHONPATH=src $(DEV)/python -m local.soak --results $(N) $(if $(SEED),--seed $(SEED))

fuzz: .venv/fuzz/ready ## Fuzz what reads from outside for SECONDS=300; what is found joins tests/corpus
	@PYTHONPATH=src .venv/fuzz/bin/python -m tests.fuzz --seconds $(SECONDS)

# Strict: else it calls packages that it can't look up free of vulnerabilities.
audit: .venv/audit/ready ## Look up the requirements among the known vulnerabilities; asks PyPI
	@.venv/audit/bin/pip-audit --strict --requirement local/requirements/dev.txt

doctor: .venv/dev/ready ## Check a deployed stack: STACK=flash-call-relay PROBE=1
	$(OPS) doctor $(options)

send: .venv/dev/ready ## Send results to a stack: UUID=... STATUS=Success, or FILE=results.csv
	$(OPS) send $(options)

parked: .venv/dev/ready ## List what is parked (or QUEUE=dead): REASON= UUID= SINCE=6h LIMIT=20
	$(OPS) $(QUEUE) list $(options)

replay: .venv/dev/ready ## Replay what is parked (or QUEUE=dead): REASON= UUID= LIMIT= DRY_RUN=1 YES=1
	$(OPS) $(QUEUE) replay $(options)

discard: .venv/dev/ready ## Write what is parked (or QUEUE=dead) to a file and delete it: REASON= UUID= TO=
	$(OPS) $(QUEUE) discard $(options)

story: .venv/dev/ready ## Tell what happened to one result: UUID=...
	$(OPS) story $(call quoted,UUID) $(call options,UUID)

pause: .venv/dev/ready ## Stop a deployed relay; results wait on the queue
	$(OPS) pause $(options)

resume: .venv/dev/ready ## Start it again
	$(OPS) resume $(options)

ready:
	@ls $(CHECKS) >/dev/null 2>&1 || { echo "Not set up yet: run 'make setup', or 'make test', which does all."; exit 1; }

lint: scan ## Ruff, SAM's linter, and the policy scan
	@echo "==> ruff" && $(DEV)/ruff check . && $(DEV)/ruff format --check .
	@echo "==> sam validate --lint" && \
		SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=eu-central-1 .venv/sam/bin/sam validate --lint

scan: ## Scan the template for weak security settings; .checkov.yaml has the exceptions
	@echo "==> checkov" && .venv/scan/bin/checkov --config-file .checkov.yaml

types: ## mypy --strict
	@echo "==> mypy --strict" && $(DEV)/mypy

clean: down ## Remove all that the other commands made
	@rm -rf .venv .local .fuzz build flash_call_relay.egg-info .aws-sam .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find local ops src tests -name __pycache__ -type d -prune -exec rm -rf {} +
