"""The commands of `fewstep` in a checkout; fewstep/command_line.py adds them to its own.

What a command needs is imported when it runs, so that help is there at once.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from flows.planning.request import Choice, Request, SweepRequest

with lazy_imports():  # loaded at first use
    import rich.console

    from flows import deploy as deployments
    from flows import gc as garbage
    from flows import recover as recovery
    from flows import run as runs
    from flows import sweep as sweeps
    from flows import ui as pages
    from flows import why as reasons
    from flows import worker as workers
    from flows.planning import measuring
    from stages.settings import checks, discovery, own_files

FLAT = Parameter(name="*")
"""Each field of a request is an option."""


def run(*, request: Annotated[Request, FLAT] = Request()) -> None:  # noqa: B008 - it is immutable
    """Run the pipeline: bring the stages of dvc.yaml up to date and print the result table.

    Stages run through a Prefect flow, independent ones at once, with retries. PREFECT_API_URL names a server
    that shows the run; without it, a server runs for the time of the run. `dvc repro` runs the same stages
    without Prefect.
    """
    runs.run(Path.cwd(), request)


def plan(
    stage: str | None = None,
    /,
    *,
    price: float | None = None,
    memory: bool = False,
    choice: Annotated[Choice, FLAT] = Choice(),  # noqa: B008 - it is immutable
) -> None:
    """Report what a run would do, without a server; or, for a STAGE, what it would take.

    Args:
        stage: A stage that makes samples, such as couple@round1, which measures the time of a sample; or one
            that trains, such as pretrain@base, which measures the memory of a few samples.
        price: Price of an hour of one worker, to report the cost of making the samples of STAGE.
        memory: Report what memory each training would take, and what would take less.
        choice: The stages that a run would bring up to date.

    Raises:
        UserError: STAGE makes no samples and trains nothing, or an option does not fit it.
    """
    if [stage is not None, memory, choice != Choice()].count(True) > 1:
        raise UserError("give a stage, --memory or options of a run, and not several of them")
    if price is not None and stage is None:
        raise UserError("--price needs a stage that makes samples, such as couple@round1")
    if stage is not None:
        measuring.measure(stage, price)
    if memory:
        measuring.measure_trainings()
        return
    print(runs.plan(Path.cwd(), choice))


def why() -> None:
    """Show what makes each stage out of date: a setting, its VERSION, an input, or that it never ran."""
    rich.console.Console().print(reasons.table(reasons.why(Path.cwd())))


def check() -> None:
    """Check all settings of params.yaml, and do nothing else."""
    params = checks.read_checked()
    addresses = [discovery.address(stage, key) for stage in discovery.names() for key in params.keys(stage)]
    own_files.must_be_there(params.raw, Path(), addresses)
    print("The settings of all stages are valid.")


def sweep(*, request: Annotated[SweepRequest, FLAT] = SweepRequest()) -> None:  # noqa: B008 - it is immutable
    """Run the pipeline for each combination of settings, side by side, and print a table of the results."""
    sweeps.run(Path.cwd(), request)


def ui() -> None:
    """Serve the pages of MLflow and Prefect on this machine, until Ctrl-C."""
    pages.serve(Path.cwd())


def deploy() -> None:
    """Register the pools and deployments of infra/prefect.yaml with the server that PREFECT_API_URL names."""
    deployments.deploy(Path.cwd())


def worker(pool: str, /, *options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Serve a pool of infra/pools.yaml, or the pool `driver`, on this machine, until Ctrl-C.

    Args:
        pool: The pool, such as gpu.
        options: Further options of `prefect worker start`.
    """
    workers.become(pool, options)


def recover() -> None:
    """Clear what a killed run has left: locks of dead processes and half-made variants.

    It refuses while anything runs here, and never ends a process.
    """
    print("\n".join(recovery.recover(Path.cwd())) or "There was nothing to recover.")
    print("Continue with: fewstep run")


def gc(*, yes: bool = False) -> None:
    """List what nothing uses any more, such as old caches and scratch, and remove it after a yes.

    Args:
        yes: Remove it without asking.
    """
    garbage.run(Path.cwd(), yes)
