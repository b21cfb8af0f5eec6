# make run: everything from a fresh machine to few-step students. make test: set up and test.
# Every target works on its own.
.RECIPEPREFIX = >
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK = 1
export DVC_NO_ANALYTICS = 1
export MLFLOW_DISABLE_TELEMETRY = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test check ui deploy worker recover why gc bench clean

run: .venv/.locked
> python -m stages && python -m flows.pipeline && python -m flows.summary

test: .venv/.locked
> python -m pytest -n $$(($$(nproc) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TESTS)

check: .venv/.locked
> ruff format --check . && ruff check . && mypy

ui: .venv/.locked
> python -m flows.ui

deploy: .venv/.locked
> for pool in driver cpu gpu; do prefect work-pool create --type process --overwrite $$pool || exit 1; done
> prefect --no-prompt deploy --all --prefect-file infra/prefect.yaml

worker: .venv/.locked
> python -m flows.worker $(POOL)

recover: .venv/.locked
> python -m flows.recover

why: .venv/.locked
> python -m flows.why

gc: .venv/.locked
> python -m flows.gc

bench: .venv/.locked
> for file in benchmarks/*.py; do python -m benchmarks.$$(basename $$file .py) || exit 1; done

clean:
> rm -rf .venv .fewstep artifacts .pytest_cache .ruff_cache .mypy_cache .hypothesis

# A .venv whose installation broke off, or whose interpreter or pip does not run any more, is made anew.
$(shell test ! -e .venv/.locked || .venv/bin/pip --version >/dev/null 2>&1 || rm .venv/.locked)
define MUST_BE_NEW_ENOUGH
import sys
sys.version_info >= (3, 11) or sys.exit("fewstep needs Python 3.11 or newer, and $(PYTHON) is Python %s. \
Name another one: PYTHON=python3.12 make run" % sys.version.split()[0])
endef
export MUST_BE_NEW_ENOUGH

.venv/.locked: requirements.lock
> @test -e $@ || $(PYTHON) -c "$$MUST_BE_NEW_ENOUGH"
> test -e $@ || $(PYTHON) -m venv --clear .venv
> rm -f $@
> .venv/bin/pip install --quiet --requirement requirements.lock
> touch $@
