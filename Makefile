# Everything a newcomer runs. Needs only make and python3 (3.11 or newer) with its venv module;
# `make demo ARGS='--for 20s --json'` passes options on, and so do the other targets.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
ARGS ?=

PYTHON := $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$each; break; }; done)

UV_VERSION := 0.13.9
UV := .tools/bin/uv
# The system's Python, never a downloaded one; copies where cache and project are on two disks.
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
export UV_LINK_MODE := copy
# The system's authorities, as pip uses them here: a company's proxy may have one of its own.
export UV_SYSTEM_CERTS := true

BIN := .venv/bin

.PHONY: help setup demo test lint format bench clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' Makefile

demo: setup ## the whole system on this machine, with a simulated fleet
	@$(BIN)/scooter demo $(ARGS)

test: setup ## all tests, on real servers
	@$(UV) sync --quiet --frozen --all-extras --group node --python '$(PYTHON)'
	@$(BIN)/python -m pytest $(ARGS)

lint: setup ## style, format and types; files for containers and shells
	@$(BIN)/ruff check $(ARGS)
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml gateway/deployment/*.yml
	@$(BIN)/yamllint --strict docker-compose.yml gateway .pre-commit-config.yaml .yamllint
	@$(BIN)/shellcheck .ci/run broker/watch-passwords.sh

format: setup ## mend style and format where that can be done
	@$(BIN)/ruff check --fix $(ARGS)
	@$(BIN)/ruff format

bench: setup ## how fast it is here
	@$(BIN)/python -m tests.benchmarks $(ARGS)

clean: ## remove everything that the other targets made
	rm -rf .venv .tools .bench .demo .servers .mypy_cache .ruff_cache .pytest_cache .hypothesis dist

setup: .venv/.stamp ## the virtual environment, which the others make by themselves
	@:

.venv/.stamp: uv.lock pyproject.toml $(UV)
	@echo 'Installing packages into .venv …' >&2
	@$(UV) sync --quiet --frozen --all-extras --python '$(PYTHON)'
	@touch $@

$(UV): Makefile
	@[ -n '$(PYTHON)' ] || { echo 'Python 3.11 or newer is needed: apt install python3-venv' >&2; exit 1; }
	@'$(PYTHON)' -m venv .tools || { echo 'Python has no venv module: apt install python3-venv' >&2; exit 1; }
	@.tools/bin/pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'
	@touch $@
