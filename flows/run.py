"""`fewstep run`: check before a server starts, run the flow, and print the result table."""

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import httpx
from prefect.settings import PREFECT_API_URL

from fewstep.errors import UserError
from flows import summary
from flows.dvc import repo
from flows.pipeline import check_possible, check_variables, pipeline
from flows.planning import choice
from flows.planning.request import Choice, Request
from flows.server import connection, own
from flows.workspaces import workspace_lock
from flows.workspaces.variant import Variant
from stages.tracking import tracking


def run(root: Path, request: Request) -> None:
    """Run the flow and print its outcome, and the result table where it is of today's settings.

    Raises:
        UserError: A variable, the settings or the request are wrong, no server answers, or the run failed.
    """
    done = f"{'The chosen' if request.start_from or request.only else 'All'} stages are up to date"
    check_variables()
    variant = Variant.of(root, request.overrides)  # before waiting for a server
    connection.check()
    workspace_lock.must_be_free(variant.lock)  # DVC would refuse to be asked while a stage runs
    if not request.dry_run and nothing_to_do(root, request):
        print(f"{done}.")
    else:
        try:
            with own.server(root):
                state = pipeline(root, **asdict(request), return_state=True)
        except httpx.TransportError:
            connection.end_without_server()
        if not state.is_completed():
            raise UserError(f"\n{state.message}")
        print(state.message if request.dry_run else f"{done}: {state.message}.")
    if not request.dry_run and evaluated(variant.folder, request):
        summary.show(variant.folder / summary.EVALUATION)


def nothing_to_do(root: Path, request: Request) -> bool:
    """Return whether a server would start only to find that all that is asked for is up to date.

    Raises:
        UserError: The request does not fit the stages.
    """
    if PREFECT_API_URL.value() or request.overrides:
        return False
    fates = chosen(root, request)
    if set(fates.values()) != {"unchanged"}:
        return False
    if tracking.wanted() and (warning := tracking.send(root, seconds=0)):
        print(warning, file=sys.stderr)
    return True


def chosen(root: Path, asked: Choice) -> dict[str, choice.Fate]:
    """Return the stages of `root` that are asked for and how each comes up to date.

    Raises:
        UserError: The request does not fit the stages, or DVC's remote does not answer.
    """
    stages = repo.read(root)
    lost = repo.lost(root, stages.values())
    return choice.choose(stages, lost, start_from=asked.start_from, only=asked.only, force=asked.force)


def evaluated(root: Path, request: Request) -> bool:
    """Return whether a run that is done ends with the table: it is up to date, and not left out by `only`.

    Raises:
        UserError: DVC cannot read the project.
    """
    if (request.only and not request.only_names("evaluate")) or not (root / summary.EVALUATION).exists():
        return False
    return choice.fates(repo.read(root), lost=()).get("evaluate") == "unchanged"


def plan(root: Path, asked: Choice) -> str:
    """Return lines that report what a run would do, without a server.

    Raises:
        UserError: The settings or the request are wrong, or a file that they name is not there.
    """
    variant = Variant.of(root, asked.overrides)
    # A variant's files are renewed, which must not happen under a run; the project itself is only read.
    with workspace_lock.held(variant.lock, "fewstep plan", None) if asked.overrides else nullcontext():
        place = variant.prepare()
        fates = chosen(place, asked)
        check_possible(variant, place, choice.running(fates))
        return choice.plan(place, fates, force=asked.force)
