"""Runs a stage on another machine: a worker of the pool that infra/pools.yaml names.

The worker gets what it needs as parameters of a flow run, and returns the stage's entry of dvc.lock, which
only the driver merges. Outputs travel through DVC's remote, or a cache that all machines share.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from fewstep import variables
from fewstep.errors import UserError
from fewstep.files import read_text, remove
from flows import stage as stage_flow
from flows.dvc import commands, lockfile, repo, storage
from flows.dvc.failures import StageError, stopped
from flows.planning import choice
from flows.system import git, processes
from flows.workspaces import clone
from stages.settings import yaml_text
from stages.tracking import recording

FILE = Path("infra", "pools.yaml")
FLOW = "fewstep-stage"
POLL = 1.0  # seconds, as all that follow
EMPTY_POOL_SECONDS = 25.0  # a worker that died counts as online for half a minute more
SILENCE_SECONDS = 90.0
SERVER_SECONDS = 300.0


def wanted() -> bool:
    """Return whether stages go to workers: FEWSTEP_POOLS=on.

    Raises:
        UserError: It has another value than on and off.
    """
    return variables.is_on("FEWSTEP_POOLS")


def pool_of(stage: str, root: Path) -> str:
    """Return the pool that a stage wants.

    Raises:
        UserError: infra/pools.yaml names none for it.
    """
    pools = pools_of(root)
    name = stage.partition("@")[0]
    if name not in pools:
        raise UserError(f"{FILE} names no pool for {name}; add a line such as `{name}: cpu`")
    return pools[name]


def pools_of(root: Path) -> dict[str, str]:
    """Return the pool that each stage wants.

    Raises:
        UserError: infra/pools.yaml is missing, or no mapping.
    """
    try:
        pools = yaml_text.read(read_text(root / FILE), str(FILE))
    except FileNotFoundError:
        raise UserError(f"there is no {root / FILE}, which names the pool of each stage") from None
    if not isinstance(pools, dict):
        raise UserError(f"{FILE} must name a pool for each stage, in lines such as `prepare: cpu`")
    return pools


def reproduce(
    stage: str,
    root: Path,
    log: Callable[[str], None],
    *,
    force: bool = False,
    seconds: float | None = None,
) -> commands.Outcome:
    """Run one stage on a worker; return whether it ran, was restored, or had nothing to do.

    What DVC can restore needs no worker.

    Args:
        stage: Its name in dvc.yaml, key included.
        root: The folder of dvc.yaml.
        log: Called with a line on the state of the flow run.
        force: Run it even if there is its result.
        seconds: How long it may take on the worker; None for no limit.

    Returns:
        As `commands.reproduce`.

    Raises:
        StageError: The stage, DVC or the worker failed, or there is no worker.
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
        raise stopped(stage) from None
    assert final.state is not None
    message = final.state.message or f"the flow run {final.name} ended as {final.state_name}"
    if not final.state.is_completed():
        mistake = final.state.name == stage_flow.MISTAKE or final.state.is_cancelled()
        raise StageError(stage, f"{stage} on a worker of pool {pool}: {message}", transient=not mistake)
    outcome, entry = stage_flow.decode_result(message)
    before = lockfile.entry(root, stage)
    lockfile.merge(root, stage, entry)
    if repo.shares_by(root) == "cache":
        commands.run(stage, root, ["checkout", stage], lambda line: None)
    elif entry != before:  # what is here is of another run, and must not be taken for this one's
        for out in entry["outs"]:
            remove(root / out["path"])
    return outcome


def restored(stage: str, root: Path, log: Callable[[str], None]) -> bool:
    """Return whether a stage's output was there already, for whoever reads it.

    What a worker has just made of a stage above is not here, so that DVC does not call this one up to date.
    """
    if not lockfile.entry(root, stage):
        return False
    stages = repo.read(root)
    lost = repo.lost(root, [stages[stage]])  # the flow has seen to those above
    if choice.fates(stages, lost)[stage] != "restore":
        return False
    if repo.shares_by(root) == "remote":
        return True
    try:
        commands.run(stage, root, commands.bringing(root, stage), log)
    except StageError:  # it cannot be brought, or the flow is stopped, as the next step finds
        return False
    return not repo.read(root)[stage].changed


def order(stage: str, root: Path) -> dict[str, Any]:
    """Return the parameters of the flow run that a worker executes.

    Raises:
        UserError: `root` has something that a worker cannot get.
    """
    clone.check_clean(root, "this")
    needed = choice.above(repo.read(root), [stage]) | {stage}
    return {
        "stage": stage,
        "commit": git.commit(root),
        "project": storage.claim(root),
        "lock": lockfile.part(root, needed),  # Prefect takes no parameters of more than 512 KiB
        "params": read_text(root / "params.yaml"),
        "tracking": {name: value for name in recording.NAMES if (value := recording.variable(name))},
    }


def send(client: SyncPrefectClient, stage: str, pool: str, parameters: dict[str, Any]) -> UUID:
    """Schedule the flow run of a stage, below this one, and return its id.

    Raises:
        UserError: The server has no deployment for the pool, or does not take the parameters.
    """
    try:
        made = run_deployment(f"{FLOW}/{pool}", parameters=parameters, timeout=0, flow_run_name=stage)
    except ObjectNotFound:
        raise UserError(
            f"the Prefect server at {client.api_url} has no deployment {FLOW}/{pool}; add one for pool "
            f"{pool} to infra/prefect.yaml if there is none, then run `fewstep deploy`"
        ) from None
    except httpx.HTTPStatusError as error:
        raise UserError(
            f"the Prefect server at {client.api_url} does not take {stage} for pool {pool} "
            f"({error.response.status_code}: {error.response.text[:300]}); what travels to a worker is "
            "params.yaml and the part of dvc.lock that the stage rests on. If they are too large, set "
            "PREFECT_SERVER_API_MAX_PARAMETER_SIZE of the server, in bytes"
        ) from None
    return cast("FlowRun", made).id  # outside of an event loop


def wait(client: SyncPrefectClient, run: UUID, pool: str, log: Callable[[str], None]) -> FlowRun:
    """Return a flow run when it has ended, and cancel it if this wait is interrupted.

    Raises:
        UserError: The pool has no worker; the run is cancelled.
    """
    watch = RunWatch(client, run, pool, log)
    try:
        while not (found := watch.look()):
            time.sleep(POLL)
        return found
    except BaseException:
        client.set_flow_run_state(run, Cancelling(message="The run that started it has stopped."))
        raise


class RunWatch:
    """Watches a flow run on a worker: its state, and whether its worker is alive."""

    def __init__(self, client: SyncPrefectClient, run: UUID, pool: str, log: Callable[[str], None]) -> None:
        self.client, self.run, self.pool, self.log = client, run, pool, log
        self.shown = ""
        self.last_update: object = None
        self.since = self.answered = self.worker_seen = time.monotonic()

    def look(self) -> FlowRun | None:
        """Return the flow run if it has ended.

        Raises:
            UserError: The pool has no worker.
            StoppedError: The flow stops, as when it is cancelled.
        """
        if processes.stopping():
            raise processes.StoppedError
        now = time.monotonic()
        try:
            seen = self.client.read_flow_run(self.run)
            assert seen.state is not None
            waits = seen.state.type in (StateType.SCHEDULED, StateType.PENDING)
            if not waits or self._online():
                self.worker_seen = now
        except httpx.HTTPError:
            if now - self.answered > SERVER_SECONDS:
                raise
            self.since = self.worker_seen = now  # nobody could ask in this time
            return None
        self.answered = now
        if seen.state.is_final():
            return seen
        self._log_state(seen)
        if now - self.worker_seen > EMPTY_POOL_SECONDS:
            raise UserError(
                f"no worker of pool {self.pool} is online at {self.client.api_url}; start one with "
                f"`fewstep worker {self.pool}` on a machine of that kind, then run again"
            )
        if seen.state.type is StateType.SCHEDULED or seen.updated != self.last_update:
            self.last_update, self.since = seen.updated, now
        if now - self.since > SILENCE_SECONDS:
            lost = f"its worker has given no sign of life for {SILENCE_SECONDS:.0f} s"
            self.client.set_flow_run_state(self.run, Crashed(message=lost), force=True)
        return None

    def _online(self) -> bool:
        return any(worker.status == "ONLINE" for worker in self.client.read_workers_for_work_pool(self.pool))

    def _log_state(self, seen: FlowRun) -> None:
        if seen.state_name and seen.state_name != self.shown:
            self.shown = seen.state_name
            self.log(f"{seen.name} on pool {self.pool}: {self.shown.lower()}")
