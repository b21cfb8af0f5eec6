"""A sweep: the pipeline for each of several settings, each in a workspace of its own, and one table of all.

Variants run side by side, as many stages at once as in one pipeline. What they have in common is made once:
they share DVC's cache, and equal stages wait for each other.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from rich.console import Console
from rich.table import Table

from fewstep.errors import UserError
from flows.dvc import repo
from flows.pipeline import check_variables, pipeline
from flows.planning import choice
from flows.planning.request import SweepRequest, takes
from flows.planning.time_limits import stages_at_once
from flows.server import artifacts, connection, deployed, ending, own
from flows.system import processes
from flows.workspaces import workspace_lock
from flows.workspaces.variant import Variant
from stages.settings.params import canonical

MEASURE = "fd_clf"

runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=stages_at_once())


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_variant(name: str, root: Path, overrides: dict[str, Any], experiment: str) -> State:
    """Run the pipeline of a variant; its state is the task's."""
    named = pipeline.with_options(flow_run_name=name)
    state = named(root, overrides=overrides, experiment=experiment, return_state=True)
    get_run_logger().info("%s: %s", described(overrides), state.message)
    return state


@flow(name="fewstep sweep", task_runner=runner, persist_result=False, **ending.hooks())
@takes(SweepRequest)
def sweep(root: Path = Path(), **asked: Any) -> State:
    """Run the pipeline with several settings and compare the results.

    Args:
        root: The project's folder, which holds dvc.yaml.
        **asked: The fields of SweepRequest.

    Returns:
        Completed, or Failed if a variant is; the message is a table of all.
    """
    request = SweepRequest(**asked)
    try:
        deployed.check_folder(root)
        variants = wanted(root, request)  # all of them, before the first runs
    except UserError as error:
        return Failed(message=str(error))
    states = run_all(variants, request.experiment)
    if any(state.is_cancelled() for state in states):
        return Cancelled(message="cancelled; the next sweep continues where this one stopped")
    rows = [row(variant, state) for variant, state in zip(variants, states, strict=True)]
    artifacts.show_table("sweep", rows, f"{MEASURE} of each model@NFE, by variant")
    done = all(state.is_completed() for state in states)
    return Completed(message=told(rows)) if done else Failed(message=told(rows))


def wanted(root: Path, request: SweepRequest) -> list[Variant]:
    """Return the variants that a sweep asks for, checked, and the variables of their stages with them.

    Raises:
        UserError: There is none, or a setting or a variable is wrong.
    """
    check_variables()
    return [Variant.of(root, overrides) for overrides in combinations(request.grid, request.variants)]


def run_all(variants: list[Variant], experiment: str) -> list[State]:
    """Run all variants, and return their final states."""
    with processes.child_processes():
        try:
            names = [f"{flow_run.get_name()}-{variant.name}" for variant in variants]
            futures = [
                run_variant.submit(name, variant.root, variant.overrides, experiment)
                for name, variant in zip(names, variants, strict=True)
            ]
            for future in futures:
                future.wait()
        except BaseException:  # Control-C or a termination: leave no stage behind
            processes.stop_all()
            raise
    return [future.state for future in futures]


def combinations(grid: dict[str, list[Any]], variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the overrides of each variant, none twice.

    Raises:
        UserError: There is none, or a setting of the grid has no list of values.
    """
    for key, values in grid.items():
        if not (isinstance(values, list) and values):
            raise UserError(f"the grid needs a list of values for {key}, such as [1,2], got {values!r}")
    crossed = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] if grid else []
    found = {canonical(overrides): overrides for overrides in crossed + variants if overrides}
    if not found:
        raise UserError(
            "a sweep needs settings to vary, such as --grid seed=[0,1] (in the form: grid or variants)"
        )
    return list(found.values())


def row(variant: Variant, state: State) -> dict[str, Any]:
    """Return a variant's line of the table."""
    line = {"variant": variant.name, "settings": described(variant.overrides), "state": state.name}
    metrics = variant.folder / "artifacts" / "evaluate" / "metrics.json"
    if state.is_completed() and metrics.exists():
        headline = json.loads(metrics.read_text())["headline"]
        line |= {model: found[MEASURE] for model, found in headline.items() if MEASURE in found}
    return line


def state_of(variant: Variant) -> State:
    """Return the state of a variant whose flow run could not tell it: Completed if all is up to date."""
    with suppress(UserError), workspace_lock.held(variant.lock, "fewstep sweep", None):
        if set(choice.fates(repo.read(variant.prepare()), lost=()).values()) == {"unchanged"}:
            return Completed()
    return Failed(name="Unfinished")


def described(overrides: dict[str, Any]) -> str:
    """Write overrides as the command line has them."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in overrides.items())


def told(rows: list[dict[str, Any]]) -> str:
    """Return the message of a sweep: how many variants completed, and the table."""
    completed = [line for line in rows if line["state"] == "Completed"]
    return f"{len(completed)} of {len(rows)} variants completed\n{text(rows)}"


def text(rows: list[dict[str, Any]]) -> str:
    """Lay the table out for a terminal."""
    columns = list(dict.fromkeys(name for line in rows for name in line))
    table = Table(*columns, box=None, pad_edge=False)
    for line in rows:
        cells = [line.get(name, "-") for name in columns]
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def run(root: Path, request: SweepRequest) -> None:
    """Run the sweep and print its table.

    Raises:
        UserError: A setting or a variable is wrong, no server answers, or a variant failed.
    """
    variants = wanted(root, request)  # before waiting for a server
    connection.check()
    try:
        with own.server(root):
            state = sweep(root, **asdict(request), return_state=True)
    except httpx.TransportError:
        print(f"\n{told([row(variant, state_of(variant)) for variant in variants])}", flush=True)
        connection.end_without_server()
    if not state.is_completed():
        raise UserError(state.message or "")
    print(state.message)
