"""The pipeline as a Prefect flow: a task per stage of dvc.yaml, in its order, several at once.

Prefect schedules, retries and shows; what is up to date, DVC alone decides.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import httpx
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from fewstep.errors import UserError
from flows.dvc import repo
from flows.dvc.failures import StageError
from flows.planning import choice, durations, stage_locks, time_limits
from flows.planning.request import Request, options
from flows.server import artifacts, connection
from flows.system import notices, processes
from flows.workers import driver
from flows.workspaces import variant, workspace_lock
from stages.artifacts import manifests
from stages.settings import checks
from stages.tracking import tracking

SECONDS_BETWEEN_LOOKS = 3.0  # for a cancellation


class CancelledInUIError(Exception):
    """Somebody cancelled the flow run."""


def stages_at_once() -> int:
    """Return how many independent stages may run at once: FEWSTEP_STAGES_AT_ONCE, else two."""
    wanted = os.environ.get("FEWSTEP_STAGES_AT_ONCE", "2")
    if not (wanted.isdecimal() and int(wanted)):
        sys.exit(f"FEWSTEP_STAGES_AT_ONCE must be a number of stages from 1, got {wanted!r}")
    return int(wanted)


slots = threading.BoundedSemaphore(stages_at_once())  # which the variants of a sweep share


def may_pass_next_time(_task: Task, _run: TaskRun, state: State) -> bool:
    """Return whether a failed stage deserves another try."""
    return isinstance(state.data, StageError) and state.data.transient


@task(
    task_run_name="{stage}",
    retries=2,
    retry_delay_seconds=[5, 10],  # a cancelled flow waits for a stage that waits
    retry_condition_fn=may_pass_next_time,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def bring_up_to_date(
    stage: str,
    root: Path,
    unchanged: bool,
    outputs: tuple[str, ...],
    identity: str,
    force: bool = False,
    seconds: float | None = None,
) -> State:
    """Give a stage its turn with DVC, or none when it is known to have nothing to do.

    Args:
        stage: Its name in dvc.yaml.
        root: The folder of dvc.yaml.
        unchanged: Neither it nor anything it depends on has changed.
        outputs: The folders it writes, whose pages Prefect shows if there is something new.
        identity: Its digest in `stage_locks.identities`.
        force: Run it even if there is its result.
        seconds: How long it may take; None is for ever.

    Returns:
        Completed when it ran, Cached when its earlier output serves, Failed with what it said last.
    """
    if unchanged:
        return cached(stage)
    give_turn = driver.reproduce if driver.wanted() else repo.reproduce
    try:
        with stage_locks.alone(identity), slots:
            began = time.monotonic()
            outcome = give_turn(stage, root, artifacts.Progress(stage), force=force, seconds=seconds)
    except StageError as failure:
        return Failed(message=str(failure), data=failure)
    if outcome != "unchanged":
        artifacts.show(stage, root, outputs)
    if outcome != "ran":
        return cached(stage, "restored from the run-cache" if outcome == "cached" else "nothing changed")
    durations.record(root, stage, time.monotonic() - began)
    return Completed(message=f"{stage} ran")


def cached(stage: str, told: str = "nothing changed") -> State:
    """Return the state of a stage that did not run."""
    return Completed(name="Cached", message=f"{stage}: {told}")


@flow(name="fewstep", task_runner=ThreadPoolTaskRunner(max_workers=stages_at_once()), persist_result=False)
def pipeline(
    root: Path = Path(),
    start_from: str | None = None,
    only: str | None = None,
    force: bool = False,
    overrides: dict[str, Any] | None = None,
    experiment: str | None = None,
    dry_run: bool = False,
) -> State:
    """Bring the stages of dvc.yaml up to date.

    Args:
        root: The project's folder, which holds dvc.yaml.
        start_from: A stage such as distill@boss-4: it and all that builds on it get their turn, what it needs
            must be up to date. Without it, all stages get their turn.
        only: A stage such as evaluate: it alone gets its turn, what it needs must be up to date.
        force: Run the chosen stages even if they are up to date.
        overrides: Settings of params.yaml by dotted name, such as {"distill.boss-4.train.steps": 800}. They
            are tried in a workspace of their own under .fewstep/variants, and the project stays as it is.
        experiment: The MLflow experiment that the runs are recorded under. Without it, fewstep.
        dry_run: Run nothing, but tell which stages would run, which are up to date, and how long the former
            took the last time.

    Returns:
        Completed with the count of each outcome, or Failed with what each failed stage said.
    """
    request = Request(
        start_from=start_from, only=only, force=force, overrides=overrides or {}, experiment=experiment
    )
    name, run, root = str(flow_run.get_name()), str(flow_run.get_id()), root.resolve()
    try:
        check_settings(root)
        # The tracker's name of this run, for the stages' processes and for link_cached.
        recorded = request.recorded(f"{name}-{run}")
        with processes.family(), workspace(root, request.overrides, name, run) as place, recorded:
            return work(place, request, dry_run)
    except UserError as error:
        return failed(str(error))
    except CancelledInUIError:
        return Cancelled(message="cancelled; the next run goes on where this one stopped")


@contextmanager
def workspace(root: Path, overrides: dict[str, Any], name: str, run: str) -> Iterator[Path]:
    """Hold the folder to work in, that of `root` or of a variant, for the flow run of that name and id.

    Raises:
        UserError: another flow run holds it, or an override is wrong.
    """
    if not overrides:
        with workspace_lock.held(workspace_lock.lock_of(root), name, run):
            yield root
        return
    variant.settings(root, overrides)
    with workspace_lock.held(variant.lock_of(root, overrides), name, run):
        yield variant.prepare(root, overrides)


def work(root: Path, request: Request, dry_run: bool) -> State:
    """Give the stages that were asked for their turn.

    Raises:
        UserError: the request does not fit the stages.
        CancelledInUIError: somebody cancelled the run.
    """
    stages = repo.read(root)
    turns = choice.choose(stages, request.start_from, request.only, request.force)
    if driver.wanted() and repo.shares_by(root) == "remote":
        turns = without_what_workers_find(root, turns)
    limits = time_limits.seconds_allowed(stages)
    if dry_run:
        plan = choice.plan(root, turns)
        get_run_logger().info("the plan:\n%s", plan)
        return Completed(message=plan)
    if set(turns.values()) == {"unchanged"}:  # a task for each would take longer than to find that out
        states = {name: cached(name) for name in turns}
    else:
        states = take_turns(root, stages, turns, request.force, limits)
    track_cached(root, [stages[name] for name, state in states.items() if state.name == "Cached"])
    connection.restart.wait()
    if wrong := {name: state for name, state in states.items() if state.is_failed() or state.is_crashed()}:
        told = {name: state.message or state.name or "" for name, state in wrong.items()}
        causes = [state.result(raise_on_failure=False) for state in wrong.values()]
        mistakes = not any(getattr(cause, "transient", True) for cause in causes)
        alone = f"dvc repro {' '.join(wrong)}" if not request.overrides else None
        return failed(notices.tell(told, mistakes, request.command(list(wrong)), alone))
    counts = Counter(state.name for state in states.values())
    return Completed(message=", ".join(f"{count} {name.lower()}" for name, count in counts.items()))


def without_what_workers_find(root: Path, turns: dict[str, choice.Fate]) -> dict[str, choice.Fate]:
    """Return the turns, those changed to "unchanged" whose outputs are missing here but not in the remote."""
    missing = [name for name, fate in turns.items() if fate == "restore"]
    there = set(missing) - repo.lost(root, missing) if missing else set()
    return {name: "unchanged" if name in there else fate for name, fate in turns.items()}


def failed(message: str) -> State:
    """Return the state of a run that failed, when those who asked for it have been told."""
    if problem := notices.send(f"{flow_run.get_flow_name()} {flow_run.get_name()}: {message}"):
        get_run_logger().warning("%s was not told: %s", notices.URL, problem)
    return Failed(message=message)


def take_turns(
    root: Path,
    stages: dict[str, repo.Stage],
    turns: dict[str, choice.Fate],
    force: bool,
    limits: dict[str, float],
) -> dict[str, State]:
    """Run each stage once those above it are done, independent ones at once; return their final states.

    Args:
        root: The folder of dvc.yaml.
        stages: All stages.
        turns: Those that get their turn, and what is known of each.
        force: Run those that are not only to be restored even if they are up to date.
        limits: The seconds that a stage may take, for those that have a limit.

    Raises:
        CancelledInUIError: somebody cancelled the run.
    """
    upstream = {name: [above for above in stages[name].upstream if above in turns] for name in turns}
    order = TopologicalSorter(upstream)
    order.prepare()
    futures: dict[str, PrefectFuture] = {}
    finished: SimpleQueue[str] = SimpleQueue()
    runs = {str(run) for run in (flow_run.get_id(), flow_run.get_root_flow_run_id()) if run}
    identities = stage_locks.identities(stages)
    try:
        # Each is submitted when it is ready, since a task that waits for another holds one of few threads.
        while order.is_active():
            for name in order.get_ready():
                above = [futures[other] for other in upstream[name]]
                submit = bring_up_to_date.with_options(name=name).submit
                again, limit = force and turns[name] == "run", limits.get(name)
                known = turns[name] == "unchanged", stages[name].outputs, identities[name]
                futures[name] = submit(name, root, *known, again, limit, wait_for=above)
                futures[name].add_done_callback(lambda _, name=name: finished.put(name))
            order.done(next_finished(finished, runs))
        for future in futures.values():
            future.wait()
    except BaseException:  # Control-C, a termination, or a cancellation: no stage shall be left
        processes.stop_all()
        raise
    return {name: future.state for name, future in futures.items()}


def next_finished(finished: SimpleQueue[str], runs: set[str]) -> str:
    """Return the next stage that is done.

    Prefect stops what a worker runs, but nobody stops a run that a person has started: it looks by itself.

    Raises:
        CancelledInUIError: somebody cancelled one of the flow runs `runs`.
    """
    while True:
        try:
            return finished.get(timeout=SECONDS_BETWEEN_LOOKS)
        except Empty:
            if connection.cancelled(runs):
                raise CancelledInUIError from None


def track_cached(root: Path, stages: list[repo.Stage]) -> None:
    """Link the stages that did not run to the tracked runs that made their outputs."""
    if tracking.wanted():
        manifests = [manifests.read(root / out) for stage in stages for out in stage.outputs]
        tracking.link_cached(root, [manifest for manifest in manifests if manifest is not None])
        if warning := tracking.send(root, seconds=0):
            get_run_logger().warning(warning)


def check_settings(root: Path) -> None:
    """Decode the settings of every stage.

    Raises:
        UserError: any is wrong; the message has a line for each.
    """
    checks.read_checked(root / "params.yaml")


def nothing_to_do(root: Path, asked: dict[str, Any]) -> bool:
    """Return whether a server would be started only to find that all that is asked for is up to date.

    Raises:
        UserError: the request does not fit the stages.
    """
    if PREFECT_API_URL.value() or asked["overrides"] or asked["dry_run"]:
        return False
    turns = choice.choose(repo.read(root), asked["start_from"], asked["only"], asked["force"])
    if set(turns.values()) != {"unchanged"}:
        return False
    if tracking.wanted() and (warning := tracking.send(root, seconds=0)):
        print(warning, file=sys.stderr)
    return True


def main(root: Path, arguments: list[str]) -> None:
    """Run the flow and end the process with a line on how it went."""
    try:
        asked = options(arguments)
        check_settings(root)  # before waiting for a server
        if asked["overrides"]:
            variant.settings(root, asked["overrides"])
        connection.check()
        if nothing_to_do(root, asked):
            print("All stages are up to date.")
            return
    except UserError as error:
        sys.exit(str(error))
    try:
        state = pipeline(root, **asked, return_state=True)
    except httpx.TransportError:
        print(f"\n{connection.lost()}", file=sys.stderr, flush=True)
        os._exit(1)  # else Prefect tries for some seconds with each event that it has left
    if not state.is_completed():
        sys.exit(f"\n{state.message}")
    print(state.message if asked["dry_run"] else f"All stages are up to date: {state.message}.")


if __name__ == "__main__":
    main(Path.cwd(), sys.argv[1:])
