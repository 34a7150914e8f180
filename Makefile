# make run: everything, from the install to compared and registered encoders. make help: the rest.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := true
unexport PYTHONSAFEPATH
unexport PYTHONHOME
unexport PYTHONINSPECT
export DVC_NO_ANALYTICS := 1
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run flow report ui sync doctor test quick stress lint check docs bench preset budget clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv and install the pinned dependencies

$(READY): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 to 3.14, or give PYTHON=..."; exit 4; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { echo "error: Python 3.11 to 3.14 is needed; make PYTHON=python3.12 ..."; exit 4; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) could not make $(VENV), for the reason above"; exit 4; }
	@echo "Installing the pinned dependencies into $(VENV) (2 to 5 minutes, about 6 GB with the GPU libraries) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes -r requirements.lock
	@$(VENV)/bin/python -m compileall -q -j 0 -x '/tests/|/transformers/models/' $(VENV)/lib >/dev/null || true # what is used, on all cores; pip would do it on one
	@touch $@

run: $(READY) ## the whole pipeline (dvc repro, as many stages at a time as the cores carry); again: only what changed
	@python -m tasks.run

flow: $(READY) ## the same stages several at a time, as a Prefect flow
	@python -m flows.pipeline

preset: $(READY) ## use the parameters of presets/P.yaml: make preset P=cifar10
	@python -m tasks.preset $(P)

budget: $(READY) ## give every method the same time on these images; with S=40, 40 s of one core
	@python -m tasks.budget $(if $(S),--seconds $(S))

ui: $(READY) ## MLflow's and Prefect's pages on this machine
	@python -m tasks.ui

sync: $(READY) ## bring MLflow up to date with the journals
	@python -m tasks.sync

doctor: $(READY) ## find and repair what a crash left behind
	@python -m tasks.doctor

test: $(READY) ## the tests, 10 to 15 minutes on two cores
	@python -m pytest -q

quick: $(READY) ## the unit tests of science, parameters and images, one to two minutes: none of them starts a command
	@python -m pytest -q -m 'not slow and not stress' tests/ssl_core tests/tasks/evaluate tests/tasks/prepare tests/tasks/runtime

stress: $(READY) ## failures and kills in long series, half an hour and more
	@python -m pytest -q -n 2 -m stress

lint: $(READY) ## formatting, lint and types
	@ruff format --check .
	@ruff check .
	@mypy

check: lint ## formatting, lint, types and the architecture rules
	@python -m pytest -q -n 0 tests/whole/test_architecture.py tests/ssl_core/test_catalogue.py

docs: $(READY) ## the documentation as a site, site/index.html; a broken link or a page that nothing leads to fails
	@mkdocs build --strict
	@echo "site/index.html"

bench: $(READY) ## speed against other libraries, side by side: a quarter of an hour
	@python -m benchmarks

clean: ## remove results and work in progress, but not the installed packages
	rm -rf out reports site data/prepared data/tasks .ssl mlruns dvc.lock
