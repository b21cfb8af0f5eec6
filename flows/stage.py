"""One stage as a Prefect flow of its own, which a worker on another machine runs for the driver.

The worker runs the requested stage at the driver's commit, with the driver's settings and dvc.lock, as far
as the stage rests on it. It returns the stage's entry in the message of the flow's final state.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff

from fewstep.errors import UserError
from flows import CHECKOUT
from flows.dvc import commands, lockfile, repo, storage
from flows.dvc.failures import StageError
from flows.server import artifacts, ending
from flows.system import git
from flows.workspaces import clone
from stages.tracking import recording

SECONDS_BETWEEN_BEATS = 10
MISTAKE = "Mistake"
"""Name of the final state of a stage that failed and would fail again."""


@flow(name="fewstep-stage", flow_run_name="{stage}", persist_result=False, **ending.hooks())
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
        project: The first commit of the project, which marks the storage where outputs are shared.
        lock: The text of the driver's dvc.lock, as far as the stage rests on it.
        params: The text of the driver's params.yaml.
        tracking: Variables that name the experiment and the run that the tracker records the stage under.
        force: Run it even if there is its result.
        seconds: How long it may take; None for no limit.

    Returns:
        Completed or Cached, with the stage's entry of dvc.lock as the last line of the message; Failed or
        Mistake with what went wrong.
    """
    # Persistent state is in the checkout: scratch, from which a stage resumes, and records of runs.
    log = get_run_logger().info
    try:
        refuse_other_variables(tracking)
        os.environ |= {"DVC_ROOT": str(CHECKOUT)} | tracking
        refuse_another_commit(CHECKOUT, commit)
        storage.check(CHECKOUT, project)
        with beating(), clone.clone(CHECKOUT, str(flow_run.get_id()), lock, params) as root:
            clone.bring_in(stage, root, log)
            progress = artifacts.ProgressArtifact(stage).move
            outcome = commands.reproduce(stage, root, log, progress=progress, force=force, seconds=seconds)
            send_out(stage, root, log)
            entry = lockfile.entry(root, stage)
            assert entry is not None  # DVC has just written it
            if repo.shares_by(root) == "remote":  # else the driver has the output here, and shows it
                artifacts.show(stage, root, tuple(out["path"] for out in entry["outs"]))
    except (UserError, StageError) as error:
        again = isinstance(error, StageError) and error.transient
        return Failed(name="Failed" if again else MISTAKE, message=str(error))
    return Completed(
        name="Completed" if outcome == "ran" else "Cached", message=encode_result(stage, outcome, entry)
    )


@task(
    task_run_name="send {stage}",
    retries=4,  # here is the output; a failed stage may begin again on another worker
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    cache_policy=NO_CACHE,
    persist_result=False,
)
def send_out(stage: str, root: Path, log: Callable[[str], None]) -> None:
    """Send the output of a stage, and the record of its run, to the shared storage.

    Raises:
        StageError: The remote did not take them.
    """
    if repo.shares_by(root) == "remote":
        commands.run(stage, root, ["push", "--run-cache", stage], log)


def refuse_other_variables(tracking: dict[str, str]) -> None:
    """Refuse variables that do more than name what a run is recorded under, such as PATH.

    Raises:
        UserError: There is one.
    """
    if others := sorted(tracking.keys() - set(recording.NAMES)):
        raise UserError(f"a worker takes {' and '.join(recording.NAMES)} from a caller, not {others}")


def refuse_another_commit(checkout: Path, commit: str) -> None:
    """Refuse a worker's checkout that is not equal to the driver's.

    Raises:
        UserError: It is at another commit, or has changes.
    """
    if (own := git.commit(checkout)) != commit:
        raise UserError(
            f"the worker's checkout is at commit {own[:12]}, the driver's at {commit[:12]}; bring both to "
            "one commit (git pull) and restart the worker"
        )
    clone.check_clean(checkout, "the worker's")


def encode_result(stage: str, outcome: commands.Outcome, entry: dict[str, Any]) -> str:
    """Return the message that hands an entry back: one line for people, one for `decode_result`."""
    return f"{stage}: {outcome}\n{json.dumps([outcome, entry])}"


def decode_result(message: str) -> tuple[commands.Outcome, dict[str, Any]]:
    """Return the outcome and the entry that `encode_result` wrote."""
    outcome, entry = json.loads(message.rpartition("\n")[2])
    return outcome, entry


@contextmanager
def beating() -> Iterator[None]:
    """Update the record of this run regularly, so that the driver notices when this machine dies."""
    over, run = Event(), UUID(flow_run.get_id())

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
