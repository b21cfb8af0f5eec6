"""One stage as a Prefect flow of its own, which a worker on another machine runs for the driver.

The worker decides nothing: it runs the stage that it is asked for, at the driver's commit, on the driver's
settings and dvc.lock, and hands the stage's entry of dvc.lock back as the message of its final state.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from fewstep.errors import UserError
from flows import CHECKOUT
from flows.dvc import lockfile, repo, storage
from flows.dvc.failures import StageError
from flows.server import artifacts
from flows.system import git
from flows.workspaces import clone

SECONDS_BETWEEN_BEATS = 10
MISTAKE = "Mistake"
"""Name of the state of a stage that another try would not help."""


@flow(name="fewstep-stage", flow_run_name="{stage}", persist_result=False)
def run_stage(
    stage: str,
    commit: str,
    project: str,
    lock: str,
    params: str,
    tracking: dict[str, str],
    force: bool = False,
    seconds: float | None = None,
) -> State:
    """Run one stage for a driver, in a clone of this worker's checkout.

    Args:
        stage: Its name in dvc.yaml, key included.
        commit: The driver's commit.
        project: The first commit of the project, which marks the place where outputs are shared.
        lock: The text of the driver's dvc.lock.
        params: The text of the driver's params.yaml.
        tracking: Variables that say under what the tracker records the stage.
        force: Run it even if there is its result.
        seconds: How long it may take; None is for ever.

    Returns:
        Completed or Cached, with the stage's entry of dvc.lock as the last line of the message; Failed or
        Mistake with what went wrong.
    """
    # What outlives a run lies in the checkout: scratch, in which a stage goes on, and records.
    os.environ |= {"DVC_ROOT": str(CHECKOUT)} | tracking
    log = get_run_logger().info
    try:
        refuse_another_commit(CHECKOUT, commit)
        storage.check(CHECKOUT, project)
        with beating(), clone.clone(CHECKOUT, str(flow_run.get_id()), lock, params) as root:
            clone.bring_in(stage, root, log)
            progress = artifacts.Progress(stage)
            outcome = repo.reproduce(stage, root, progress, force=force, seconds=seconds)
            clone.send_out(stage, root, log)
            entry = lockfile.entry(root, stage)
            if repo.shares_by(root) == "remote":  # else the driver has the output here, and shows it
                artifacts.show(stage, root, tuple(out["path"] for out in entry["outs"]))
    except (UserError, StageError) as error:
        again = isinstance(error, StageError) and error.transient
        return Failed(name="Failed" if again else MISTAKE, message=str(error))
    return Completed(name="Completed" if outcome == "ran" else "Cached", message=told(stage, outcome, entry))


def refuse_another_commit(checkout: Path, commit: str) -> None:
    """See to it that a worker's checkout is what the driver's is.

    Raises:
        UserError: it is at another commit, or was changed.
    """
    if (own := git.commit(checkout)) != commit:
        raise UserError(
            f"the worker's checkout is at commit {own[:12]}, the driver's at {commit[:12]}; bring both to "
            "one commit (git pull) and restart the worker"
        )
    clone.check_clean(checkout, "the worker's")


def told(stage: str, outcome: repo.Outcome, entry: dict[str, Any] | None) -> str:
    """Return the message that hands an entry back: one line for people, one for `heard`."""
    return f"{stage}: {outcome}\n{json.dumps([outcome, entry])}"


def heard(message: str) -> tuple[repo.Outcome, dict[str, Any]]:
    """Return the outcome and the entry that `told` wrote."""
    outcome, entry = json.loads(message.rpartition("\n")[2])
    return outcome, entry


@contextmanager
def beating() -> Iterator[None]:
    """Touch the record of this run now and then, so that the driver notices when its machine dies."""
    over, run = Event(), flow_run.get_id()

    def beat() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(SECONDS_BETWEEN_BEATS):
                with suppress(httpx.HTTPError):
                    client.update_flow_run(run, name=flow_run_name)

    flow_run_name = flow_run.get_name()
    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
