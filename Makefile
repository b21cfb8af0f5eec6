# make run: everything from a fresh machine to few-step students. make test: set up and test.
# Every target works on its own.
.RECIPEPREFIX = >
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK = 1
export DVC_NO_ANALYTICS = 1
export HF_HUB_DISABLE_TELEMETRY = 1
export HF_HUB_OFFLINE = 1
export MLFLOW_DISABLE_TELEMETRY = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Two processes more than cores, as tests wait a lot.
PYTEST = python -m pytest -n $$(($$(nproc) + 2)) --maxprocesses 5 --dist loadfile --no-loadscope-reorder --durations 10

.PHONY: run test check docs coverage ui deploy worker recover why gc clean

run: .venv/.locked
> fewstep run

test: .venv/.locked
> $(PYTEST) $(TESTS)

check: .venv/.locked
> ruff format --check . && ruff check . && mypy

docs: .venv/.locked
> NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet && echo "Open $(CURDIR)/site/index.html"

coverage: .venv/.locked
> $(PYTEST) --cov --cov-report=term-missing:skip-covered $(TESTS)

ui: .venv/.locked
> fewstep ui

deploy: .venv/.locked
> fewstep deploy

worker: .venv/.locked
> fewstep worker $(POOL)

recover: .venv/.locked
> fewstep recover

why: .venv/.locked
> fewstep why

gc: .venv/.locked
> fewstep gc

clean:
> rm -rf .venv .fewstep artifacts site .pytest_cache .ruff_cache .mypy_cache .hypothesis

# A .venv whose installation broke off, or whose interpreter or pip does not run any more, is made anew.
$(shell test ! -e .venv/.packages || .venv/bin/pip --version >/dev/null 2>&1 || rm -f .venv/.packages .venv/.locked)
define MUST_BE_NEW_ENOUGH
import sys
sys.version_info >= (3, 11) or sys.exit("fewstep needs Python 3.11 or newer, and $(PYTHON) is Python %s. \
Name another one: PYTHON=python3.12 make run" % sys.version.split()[0])
endef
export MUST_BE_NEW_ENOUGH

# Bytecode: pip would make it on one core, and of the packages' own tests too. A few files are templates and no
# Python, which is no reason to stop.
COMPILE = .venv/bin/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true

# The project itself, for its command `fewstep`, and what the servers of its runs start from.
.venv/.locked: .venv/.packages pyproject.toml
> .venv/bin/pip install --quiet --no-deps --no-build-isolation --editable .
> .venv/bin/python -m flows.server.tables
> touch $@

.venv/.packages: requirements.lock
> @test -e $@ || $(PYTHON) -c "$$MUST_BE_NEW_ENOUGH"
> test -e $@ || $(PYTHON) -m venv --clear .venv
> rm -f $@
> .venv/bin/pip install --quiet --no-compile --requirement requirements.lock
> $(COMPILE)
> touch $@
