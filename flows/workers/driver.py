"""Giving a stage its turn on another machine: a worker of the pool that infra/pools.yaml names runs it.

What a worker needs goes with the order, as parameters of the flow run; what it made comes back as an entry
of dvc.lock, which only the driver merges. Outputs themselves go by DVC's remote, or a cache that all share.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from fewstep.errors import UserError
from flows import stage as stage_flow
from flows.dvc import lockfile, repo, storage
from flows.dvc.failures import StageError
from flows.planning import choice
from flows.system import git, processes
from flows.workspaces import clone
from stages.tracking import recording

FILE = Path("infra", "pools.yaml")
FLOW = "fewstep-stage"
TRACKING = (recording.PIPELINE, recording.EXPERIMENT)
"""Variables that say under what a run is recorded; where the tracker is, a worker knows by itself."""
POLL = 1.0  # seconds, as all that follow
PATIENCE_WITH_AN_EMPTY_POOL = 25.0  # a worker that died counts as online for half a minute more
PATIENCE_WITH_SILENCE = 90.0
PATIENCE_WITH_THE_SERVER = 300.0


def wanted() -> bool:
    """Return whether stages go to workers: FEWSTEP_POOLS=on.

    Raises:
        UserError: it has another value than on and off.
    """
    if (value := os.environ.get("FEWSTEP_POOLS", "off")) not in ("on", "off"):
        raise UserError(f"FEWSTEP_POOLS must be on or off, got {value!r}")
    return value == "on"


def pool_of(stage: str, root: Path) -> str:
    """Return the pool that a stage wants.

    Raises:
        UserError: infra/pools.yaml has none for it.
    """
    pools = yaml.safe_load((root / FILE).read_text())
    name = stage.partition("@")[0]
    if name not in pools:
        raise UserError(f"{FILE} names no pool for {name}; add a line such as `{name}: cpu`")
    return pools[name]


def reproduce(
    stage: str,
    root: Path,
    log: Callable[[str], None],
    *,
    force: bool = False,
    seconds: float | None = None,
) -> repo.Outcome:
    """Give one stage its turn on a worker; say whether it ran, was restored, or had nothing to do.

    What only has to be brought here is no work for a worker.

    Args:
        stage: Its name in dvc.yaml, key included.
        root: The folder of dvc.yaml.
        log: Called with a line on where the stage is.
        force: Run it even if there is its result.
        seconds: How long it may take on the worker; None is for ever.

    Returns:
        As `repo.reproduce`.

    Raises:
        StageError: the stage, DVC or the worker ended badly, or there is no worker.
    """
    try:
        if not force and restored(stage, root, log):
            return "cached"
        pool = pool_of(stage, root)
        parameters = order(stage, root) | {"force": force, "seconds": seconds}
        with get_client(sync_client=True) as client:
            final = wait(client, send(client, stage, pool, parameters), pool, log)
    except UserError as error:
        raise StageError(stage, f"{stage}: {error}", transient=False) from error
    except processes.StoppedError:
        raise StageError(stage, f"{stage} was stopped with its flow", transient=False) from None
    assert final.state is not None
    message = final.state.message or f"the flow run {final.name} ended as {final.state_name}"
    if not final.state.is_completed():
        mistake = final.state.name == stage_flow.MISTAKE or final.state.is_cancelled()
        raise StageError(stage, f"{stage} on a worker of pool {pool}: {message}", transient=not mistake)
    outcome, entry = stage_flow.heard(message)
    before = lockfile.entry(root, stage)
    lockfile.merge(root, stage, entry)
    if repo.shares_by(root) == "cache":
        repo.run(stage, root, ["checkout", stage], lambda line: None)
    elif entry != before:  # what is here is of another run, and nobody shall take it for this one's
        for out in entry["outs"]:
            shutil.rmtree(root / out["path"], ignore_errors=True)
    return outcome


def restored(stage: str, root: Path, log: Callable[[str], None]) -> bool:
    """Return whether a stage's output was there already, for whoever reads it.

    What a worker has just made of a stage above is not here, so that DVC does not call this one up to date.
    """
    if not lockfile.entry(root, stage) or choice.fates(repo.read(root))[stage] != "restore":
        return False
    if repo.shares_by(root) == "remote":
        return not repo.lost(root, [stage])
    try:
        repo.run(stage, root, repo.bringing(root, stage), log)
    except StageError:  # it is not to be had, or the flow is stopped, as the next step will find
        return False
    return not repo.read(root)[stage].changed


def order(stage: str, root: Path) -> dict[str, Any]:
    """Return all that a worker is told.

    Raises:
        UserError: `root` has what a worker could not get.
    """
    clone.check_clean(root, "this")
    return {
        "stage": stage,
        "commit": git.commit(root),
        "project": storage.claim(root),
        "lock": lockfile.text(root),
        "params": (root / "params.yaml").read_text(),
        "tracking": {name: value for name in TRACKING if (value := recording.variable(name))},
    }


def send(client: SyncPrefectClient, stage: str, pool: str, parameters: dict[str, Any]) -> UUID:
    """Schedule the flow run of a stage, below this one, and return its id.

    Raises:
        UserError: the server has no deployment for the pool.
    """
    try:
        run = run_deployment(f"{FLOW}/{pool}", parameters=parameters, timeout=0, flow_run_name=stage)
    except ObjectNotFound:
        raise UserError(
            f"the Prefect server at {client.api_url} knows of no pool {pool}; tell it with `make deploy`, "
            f"and start a worker with `make worker POOL={pool}`"
        ) from None
    return run.id


def wait(client: SyncPrefectClient, run: UUID, pool: str, log: Callable[[str], None]) -> FlowRun:
    """Return a flow run when it has ended, and cancel it if waiting ends first.

    Raises:
        UserError: the pool has no worker; the run is cancelled.
    """
    watch = Watch(client, run, pool, log)
    try:
        while not (found := watch.look()):
            time.sleep(POLL)
        return found
    except BaseException:
        client.set_flow_run_state(run, Cancelling(message="Nobody waits for it any more."))
        raise


class Watch:
    """What is seen of a flow run from here: how it goes, and whether anybody is at it at all."""

    def __init__(self, client: SyncPrefectClient, run: UUID, pool: str, log: Callable[[str], None]) -> None:
        self.client, self.run, self.pool, self.log = client, run, pool, log
        self.told = ""
        self.life: object = None
        self.since = self.answered = self.manned = time.monotonic()

    def look(self) -> FlowRun | None:
        """Return the flow run if it has ended.

        Raises:
            UserError: the pool has no worker.
            StoppedError: the flow stops, as when it is cancelled.
        """
        if processes.stopping():
            raise processes.StoppedError
        now = time.monotonic()
        try:
            seen = self.client.read_flow_run(self.run)
            assert seen.state is not None
            waits = seen.state.type in (StateType.SCHEDULED, StateType.PENDING)
            if not waits or self._online():
                self.manned = now
        except httpx.HTTPError:
            if now - self.answered > PATIENCE_WITH_THE_SERVER:
                raise
            self.since = self.manned = now  # nothing is known of this time
            return None
        self.answered = now
        if seen.state.is_final():
            return seen
        self._tell(seen)
        if now - self.manned > PATIENCE_WITH_AN_EMPTY_POOL:
            raise UserError(
                f"no worker of pool {self.pool} is online at {self.client.api_url}; start one with "
                f"`make worker POOL={self.pool}` on a machine of that kind, then run again"
            )
        if seen.state.type is StateType.SCHEDULED or seen.updated != self.life:
            self.life, self.since = seen.updated, now
        if now - self.since > PATIENCE_WITH_SILENCE:
            lost = f"its worker has given no sign of life for {PATIENCE_WITH_SILENCE:.0f} s"
            self.client.set_flow_run_state(self.run, Crashed(message=lost), force=True)
        return None

    def _online(self) -> bool:
        return any(worker.status == "ONLINE" for worker in self.client.read_workers_for_work_pool(self.pool))

    def _tell(self, seen: FlowRun) -> None:
        if seen.state_name and seen.state_name != self.told:
            self.told = seen.state_name
            self.log(f"{seen.name} on pool {self.pool}: {self.told.lower()}")
