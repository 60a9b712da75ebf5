# Every target sets up what it needs. On a fresh machine: make demo, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := build/bench
PEERS_LOCK := loadtests/bench/peers/requirements.lock
UV_VERSION := 0.13.*

.DEFAULT_GOAL := help
.PHONY: help setup demo up check test bench lock clean
.NOTPARALLEL:
# ARGS are for this make, not for one that a test runs.
MAKEOVERRIDES :=
unexport ARGS

help:
	@echo 'make demo    the whole line in a minute: no keys, nothing to install first'
	@echo 'make up      everything on this machine until Ctrl-C (ARGS=--reset forgets)'
	@echo 'make test    every test (ARGS="-k name" chooses)'
	@echo 'make bench   ours beside Celery, Dramatiq and Taskiq (ARGS="--only peers --jobs 500")'
	@echo 'make check   formatting, lint, types, the rooms'\'' imports'
	@echo 'make setup   only the virtual environment'
	@echo 'make lock    the lock files anew from pyproject.toml'
	@echo 'make clean   remove what the targets made'

demo up: $(READY)
	@$(BIN)/llmgine $@ $(ARGS)

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

bench: $(READY) $(PEERS)/.ready
	@$(BIN)/python -m loadtests.bench $(ARGS)

# The peers have an environment of their own, so that nobody else installs them.
$(PEERS)/.ready: $(PEERS_LOCK) .ci/venv
	@PYTHON=$(PYTHON) sh .ci/venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check \
		--require-hashes -r $(PEERS_LOCK)
	@touch $@

setup: $(READY)

# Installed again only when a dependency changed; the code itself is linked (-e).
$(READY): pyproject.toml requirements.lock requirements.build.lock .ci/venv
	@PYTHON=$(PYTHON) sh .ci/venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check \
		--require-hashes -r requirements.lock -r requirements.build.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	@touch $@

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet 'uv==$(UV_VERSION)'
	build/lock/bin/uv pip compile pyproject.toml --all-extras --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--upgrade --output-file requirements.lock
	build/lock/bin/uv pip compile pyproject.toml --extra server --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--constraint requirements.lock --upgrade --output-file requirements.server.lock
	build/lock/bin/uv pip compile loadtests/bench/peers/requirements.in --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--constraint requirements.lock --upgrade --output-file $(PEERS_LOCK)
	$(PYTHON) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	| build/lock/bin/uv pip compile - --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--upgrade --output-file requirements.build.lock

clean:
	rm -rf $(VENV) .llmgine build dist .*_cache .hypothesis
