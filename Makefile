# The verbs of development. Each sets up what it needs; nothing has to be installed before.
.PHONY: setup check format test bench fuzz clean help

help: ## list the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## system packages and .venv
	@scripts/setup --dev

check: setup ## lint, formatting, types, direction of imports
	@scripts/check

format: setup ## let ruff put the code in order
	@.venv/bin/ruff check --fix-only --quiet . ; .venv/bin/ruff format .

test: ## every test (arguments: make test ARGS="tests/unit -x")
	@scripts/test $(ARGS)

bench: ## measurements against Ray, Celery, Dask and processes (arguments: make bench ARGS="call map --quick")
	@scripts/bench $(ARGS)

fuzz: setup ## feed the wire random bytes for FUZZ_SECONDS (120)
	@scripts/fuzz $${FUZZ_SECONDS:-120}

clean: ## remove .venv and caches
	@rm -rf .venv .bench-venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
