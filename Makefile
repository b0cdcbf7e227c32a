# Two commands do everything on a fresh machine: `make run` and `make test`.
# What they need is installed into .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# The versions that were tested together; `make constraints` takes newer ones.
INSTALL := $(BIN)/python -m pip install --quiet --constraint infra/constraints.txt --editable

.PHONY: run test lint unit test-real keys docs golden test-hosts test-faults nonsense soak soak-queue test-services test-scripts constraints build test-package picture bench gpu-check gpu-wheels clean help

help:  ## show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 15

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml infra/constraints.txt | $(BIN)/python
	@echo "installing the environment into $(VENV) (once; a few minutes)"
	$(INSTALL) .
	@touch $@

# With all that `make run` needs, so that pip looks at it once.
$(VENV)/.installed-dev: pyproject.toml infra/constraints.txt | $(BIN)/python
	@echo "installing the environment and what the tests need into $(VENV) (once; a few minutes)"
	$(INSTALL) '.[dev,tokenizers]'
	@touch $(VENV)/.installed $@

run: $(VENV)/.installed  ## environment, then the main job on this machine (more: make run ARGS="job.steps=50")
	$(BIN)/python -m orchestrator job=tiny_gpt $(ARGS)

ifeq ($(strip $(ARGS)),)
test: lint unit test-real
else
test: lint
	$(BIN)/python -m pytest $(ARGS)
endif
test:  ## environment, then every check and test (some of them: make test ARGS="-k journal")

lint: $(VENV)/.installed-dev  ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# They share the cores, so each of them has one thread for its arithmetic.
unit: $(VENV)/.installed-dev  ## the fast tests only: no Ray, no servers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not real" -n auto $(ARGS)

test-real: $(VENV)/.installed-dev  ## the tests with real ranks, clusters and servers, one after the other
	$(BIN)/python -m pytest -m real $(ARGS)

keys: $(VENV)/.installed  ## generate the list of DeepSpeed's keys again (after an upgrade of DeepSpeed)
	$(BIN)/python infra/generate_deepspeed_keys.py

docs: $(VENV)/.installed  ## generate docs/configuration.md and docs/reference.md again (after a change of the schema, of conf/, or of what is written as JSON)
	$(BIN)/python -m infra.generate_configuration_reference
	$(BIN)/python -m infra.generate_reference
	$(BIN)/python -m infra.generate_examples

golden: $(VENV)/.installed-dev  ## write the golden files again; read the diff before you commit it
	UPDATE_GOLDEN=1 $(BIN)/python -m pytest -m "not real" -q

test-hosts: $(VENV)/.installed-dev  ## runs over several hosts made of namespaces; needs root or user namespaces
	$(BIN)/python -m pytest tests/hosts $(ARGS)

test-faults: $(VENV)/.installed-dev  ## real faults on real processes of real runs
	$(BIN)/python -m pytest tests/faults $(ARGS)

nonsense: $(VENV)/.installed-dev  ## a minute of nonsense for every key of the configuration (make nonsense ARGS="--seconds 600 --seed 1")
	$(BIN)/python -m tests.fuzz.every_key $(ARGS)

soak: $(VENV)/.installed-dev  ## two minutes of fuzzing (--fuzz-minutes), half an hour of runs that are struck at random (make soak ARGS="--minutes 5 --seed 1")
	$(BIN)/python -m tests.faults.soak $(ARGS)

soak-queue: $(VENV)/.installed-dev  ## twenty jobs in a queue over three hosts whose daemon, drivers and Ray's head are killed 200 times (ARGS="--jobs 5 --kills 30 --seed 1"); needs root or user namespaces
	$(BIN)/python -m tests.faults.soak_queue $(ARGS)

$(VENV)/.installed-services: pyproject.toml $(VENV)/.installed-dev
	@echo "installing what the tests of services need into $(VENV) (once)"
	$(BIN)/python -m pip install --quiet --editable '.[services]'
	@touch $@

test-services: $(VENV)/.installed-services  ## with Debian's PostgreSQL, Prometheus, Chromium and Slurm, those that are there; check of slow links and nodes, twenty times
	ORCHESTRATOR_CHECK_TIMES=20 $(BIN)/python -m pytest tests/services tests/hosts/test_check_on_hosts.py $(ARGS)

$(VENV)/.installed-scripts: pyproject.toml $(VENV)/.installed-dev
	@echo "installing the libraries that other people's scripts use into $(VENV) (once)"
	$(BIN)/python -m pip install --quiet --editable '.[scripts]'
	@touch $@

test-scripts: $(VENV)/.installed-scripts  ## scripts of transformers, accelerate, lightning and trl as they are
	$(BIN)/python -m pytest tests/user_scripts $(ARGS)

constraints:  ## take the newest versions that pyproject.toml allows, and write them and their licences down
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder/venv" \
	  && "$$folder/venv/bin/python" -m pip install --quiet --upgrade pip \
	  && "$$folder/venv/bin/python" -m pip install --quiet '.[dev,tokenizers]' \
	  && "$$folder/venv/bin/python" infra/generate_constraints.py

build: $(VENV)/.installed-dev  ## wheel and source archive, into dist/
	$(BIN)/python -m build

test-package: $(VENV)/.installed-dev  ## install the wheel into an environment of its own and use it there
	$(BIN)/python -m pytest tests/package $(ARGS)

picture: $(VENV)/.installed-dev  ## record a run on this machine into docs/images/run.svg (about 2 minutes)
	$(BIN)/python infra/record_run.py $(ARGS)

BENCHMARKS := launch scaling restart preempt script_launch goodput snapshot_stall zygote steady probe_overhead tick journal growth ledger_cost running_jobs many_journals compare_runs plan_time search_time planner_on_this_machine

$(VENV)/.installed-bench: pyproject.toml $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

bench: $(VENV)/.installed-bench  ## measure everything, into docs/benchmarks.md (an hour or two, machine at rest)
	@status=0; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS) || status=1; done; exit $$status

# On a machine that has PyTorch and reaches no package index: what else is needed is taken from .gpu-wheels, and
# lies with a link to that PyTorch in an environment of its own.
.gpu-venv/.installed: $(wildcard .gpu-wheels/*.whl)
	$(PYTHON) -m venv --without-pip .gpu-venv
	$(PYTHON) infra/gpu_environment.py .gpu-venv .
	$(PYTHON) -m pip --python .gpu-venv/bin/python install --quiet --no-index --no-deps --ignore-installed --no-compile .gpu-wheels/*.whl
	@touch $@

ifneq ($(wildcard .gpu-wheels),)
GPU_BIN := .gpu-venv/bin
gpu-check: .gpu-venv/.installed
else
GPU_BIN := $(BIN)
gpu-check: $(VENV)/.installed-dev
endif
gpu-check:  ## what only a GPU can say, in ten minutes of one (make gpu-check ARGS="--json check.json")
	$(GPU_BIN)/python -m benchmarks.gpu_check $(ARGS)

gpu-wheels: $(VENV)/.installed-dev  ## what gpu-check needs on a machine with PyTorch and no package index, into .gpu-wheels
	$(BIN)/python -m infra.gpu_wheels $(ARGS)

clean:  ## remove the environment and caches, but no runs
	rm -rf $(VENV) .gpu-venv .gpu-wheels .pytest_cache .mypy_cache .ruff_cache .hypothesis
