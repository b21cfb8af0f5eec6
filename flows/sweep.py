"""A sweep: the pipeline for each of several settings, each in a workspace of its own, and one table of all.

Variants run side by side, as many stages at once as in one pipeline. What they have in common is made once:
they share DVC's cache, and of stages that are the same one waits for the other. As a command:
`python -m flows.sweep --grid distill.boss-4.train.steps=[200,400] --grid seed=[0,1]`.
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console
from rich.table import Table

from fewstep.errors import UserError
from flows.pipeline import pipeline, stages_at_once
from flows.planning.request import overrides as decode
from flows.server import connection
from flows.system import processes
from flows.workspaces import variant

EXPERIMENT = "fewstep-sweep"
MEASURE = "fd_clf"


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_variant(name: str, root: Path, overrides: dict[str, Any], experiment: str) -> State:
    """Run the pipeline of a variant; its state is the task's."""
    named = pipeline.with_options(flow_run_name=name)
    state = named(root, overrides=overrides, experiment=experiment, return_state=True)
    get_run_logger().info("%s: %s", described(overrides), state.message)
    return state


@flow(
    name="fewstep sweep", task_runner=ThreadPoolTaskRunner(max_workers=stages_at_once()), persist_result=False
)
def sweep(
    root: Path = Path(),
    grid: dict[str, list[Any]] | None = None,
    variants: list[dict[str, Any]] | None = None,
    experiment: str = EXPERIMENT,
) -> State:
    """Run the pipeline with several settings and compare the results.

    Args:
        root: The project's folder, which holds dvc.yaml.
        grid: Values to try by dotted setting, such as {"distill.boss-4.train.steps": [200, 400]}; every
            combination is a variant.
        variants: Further variants, each by its settings, such as {"seed": 1}.
        experiment: The MLflow experiment that all are recorded under.

    Returns:
        Completed, or Failed if a variant is; the message is a table of all.
    """
    root = root.resolve()
    try:
        wanted = combinations(grid or {}, variants or [])
        for overrides in wanted:  # all of them, before the first runs
            variant.settings(root, overrides)
    except UserError as error:
        return Failed(message=str(error))
    states = run_all(root, wanted, experiment)
    if any(state.is_cancelled() for state in states):
        return Cancelled(message="cancelled; the next sweep goes on where this one stopped")
    rows = [
        row(overrides, state, variant.folder(root, overrides))
        for overrides, state in zip(wanted, states, strict=True)
    ]
    create_table_artifact(rows, key="sweep", description=f"{MEASURE} of each model@NFE, by variant")
    bad = [line for line in rows if line["state"] != "Completed"]
    message = f"{len(rows) - len(bad)} of {len(rows)} variants completed\n{text(rows)}"
    return Failed(message=message) if bad else Completed(message=message)


def run_all(root: Path, wanted: list[dict[str, Any]], experiment: str) -> list[State]:
    """Run all variants, and return how each ended."""
    with processes.family():
        try:
            names = [f"{flow_run.get_name()}-{variant.name_of(overrides)}" for overrides in wanted]
            futures = [
                run_variant.submit(name, root, overrides, experiment)
                for name, overrides in zip(names, wanted, strict=True)
            ]
            for future in futures:
                future.wait()
        except BaseException:  # Control-C or a termination: no stage shall be left
            processes.stop_all()
            raise
    return [future.state for future in futures]


def combinations(grid: dict[str, list[Any]], variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the overrides of each variant, none twice.

    Raises:
        UserError: there is none, or a setting of the grid has no list of values.
    """
    for key, values in grid.items():
        if not (isinstance(values, list) and values):
            raise UserError(f"the grid needs a list of values for {key}, such as [1, 2], got {values!r}")
    crossed = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] if grid else []
    found = {variant.name_of(overrides): overrides for overrides in crossed + variants if overrides}
    if not found:
        raise UserError("a sweep needs a grid or variants, such as --grid seed=[0,1]")
    return list(found.values())


def row(overrides: dict[str, Any], state: State, place: Path) -> dict[str, Any]:
    """Return a variant's line of the table."""
    line = {"variant": place.name, "settings": described(overrides), "state": state.name}
    metrics = place / "artifacts" / "evaluate" / "metrics.json"
    if state.is_completed() and metrics.exists():
        headline = json.loads(metrics.read_text())["headline"]
        line |= {model: found[MEASURE] for model, found in headline.items() if MEASURE in found}
    return line


def described(overrides: dict[str, Any]) -> str:
    """Write overrides as the command line has them."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in overrides.items())


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


def main(root: Path, arguments: list[str]) -> None:
    """Run the sweep and end the process with its table."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description="Compare several settings.")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=[VALUE,...]", help="all values")
    parser.add_argument("--experiment", default=EXPERIMENT, metavar="NAME", help="the MLflow experiment")
    asked = parser.parse_args(arguments)
    try:
        grid = decode(asked.grid)
        for overrides in combinations(grid, []):
            variant.settings(root, overrides)
        connection.check()
    except UserError as error:
        sys.exit(str(error))
    state = sweep(root, grid=grid, experiment=asked.experiment, return_state=True)
    print(state.message)
    sys.exit(0 if state.is_completed() else 1)


if __name__ == "__main__":
    main(Path.cwd(), sys.argv[1:])
