"""The pipeline as a Prefect flow: one task per stage of dvc.yaml, in dependency order, several at once.

Prefect schedules, retries and shows. DVC alone decides what is up to date.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from fewstep.errors import UserError
from flows.dvc import commands, repo
from flows.dvc.failures import StageError
from flows.planning import choice, stage_locks, time_limits
from flows.planning.order import urgency
from flows.planning.request import Request, takes
from flows.planning.slots import WorkAhead, slots
from flows.server import artifacts, connection, deployed, ending
from flows.system import notices, processes
from flows.workers import driver
from flows.workspaces import workspace_lock
from flows.workspaces.variant import Variant
from stages.artifacts import manifests, places, timings
from stages.run import variables
from stages.settings import own_files, trainings
from stages.tracking import tracking

SECONDS_BETWEEN_LOOKS = 3.0  # for a cancellation
SECONDS_TO_DELIVER = 20.0  # what the stages recorded: a sender that has just begun imports mlflow


class CancelledInUIError(Exception):
    """Somebody cancelled the flow run."""


runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=time_limits.stages_at_once())


def is_transient(_task: Task, _run: TaskRun, state: State) -> bool:
    """Return whether a failed stage deserves a retry."""
    return isinstance(state.data, StageError) and state.data.transient


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """What a task needs to know of its stage."""

    stage: str
    """Its name in dvc.yaml."""
    root: Path
    """The folder of dvc.yaml."""
    outputs: tuple[str, ...]
    """The folders it writes, whose pages Prefect shows if there is something new."""
    identity: str
    """Its digest in `stage_locks.identities`."""
    unchanged: bool
    """Neither it nor anything it depends on has changed."""
    force: bool
    """Run it even if there is its result."""
    seconds: float | None
    """How long it may take; None for no limit."""


@task(
    task_run_name="{stage_task.stage}",
    retries=2,
    retry_delay_seconds=[5, 10],  # a cancelled flow waits for a stage that waits
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def bring_up_to_date(stage_task: StageTask) -> State:
    """Run a stage with DVC, unless it is known to have nothing to do.

    Args:
        stage_task: The stage, and how to run it.

    Returns:
        Completed when it ran, Cached when its earlier output serves, Failed with its message.
    """
    if stage_task.unchanged:
        return cached(stage_task.stage)
    log = get_run_logger().info
    try:
        with stage_locks.alone(stage_task.identity), slots.taken():
            began = time.monotonic()
            options: dict[str, Any] = {"force": stage_task.force, "seconds": stage_task.seconds}
            if driver.wanted():
                outcome = driver.reproduce(stage_task.stage, stage_task.root, log, **options)
            else:
                options["progress"] = artifacts.ProgressArtifact(stage_task.stage).move
                outcome = commands.reproduce(stage_task.stage, stage_task.root, log, **options)
    except StageError as failure:
        return Failed(message=str(failure), data=failure)
    if outcome != "unchanged":
        artifacts.show(stage_task.stage, stage_task.root, stage_task.outputs)
    if outcome != "ran":
        return cached(
            stage_task.stage, "restored from the run-cache" if outcome == "cached" else "nothing changed"
        )
    seconds, file = round(time.monotonic() - began, 1), stage_task.root / places.STAGE_SECONDS
    with artifacts.harmless(f"the time of {stage_task.stage}"):
        timings.note(file, stage_task.stage, seconds)
    return Completed(message=f"{stage_task.stage} ran")


def cached(stage: str, reason: str = "nothing changed") -> State:
    """Return the state of a stage that did not run."""
    return Completed(name="Cached", message=f"{stage}: {reason}")


@flow(name="fewstep", task_runner=runner, persist_result=False, **ending.hooks())
@takes(Request)
def pipeline(root: Path = Path(), **asked: Any) -> State:
    """Bring the stages of dvc.yaml up to date.

    Args:
        root: The project's folder, which holds dvc.yaml.
        **asked: The fields of Request.

    Returns:
        Completed with the count of each outcome, or Failed with the message of each failed stage.
    """
    request, name, run = Request(**asked), str(flow_run.get_name()), str(flow_run.get_id())
    try:
        check_variables()
        deployed.check_folder(root)
        variant = Variant.of(root, request.overrides)
        # The tracker's name of this run, for the stages' processes and for link_cached.
        recorded = request.recorded(f"{name}-{run}")
        with processes.child_processes(), workspace_lock.held(variant.lock, name, run), recorded:
            return work(variant, request)
    except UserError as error:
        return failed(str(error))
    except CancelledInUIError:
        return Cancelled(message="cancelled; the next run continues where this one stopped")


def check_variables() -> None:
    """Refuse variables that the stages of a run, or its end, would refuse later.

    Stages that workers run have the variables of those.

    Raises:
        UserError: One of them can't be.
    """
    tracking.wanted()
    if not driver.wanted():
        variables.must_be_right()


def check_possible(variant: Variant, root: Path, addresses: list[str]) -> None:
    """Refuse stages that would find out late that they can't run.

    Raises:
        UserError: A file that one reads is not there, or processes can't share the batches of a training.
    """
    own_files.must_be_there(variant.params.raw, root, addresses)
    if not driver.wanted():  # workers have processes of their own
        trainings.must_share_batches(variant.params, addresses)


def work(variant: Variant, request: Request) -> State:
    """Run the stages that were asked for.

    Raises:
        UserError: The request does not fit the stages, or a file that they read is not there.
        CancelledInUIError: Somebody cancelled the run.
    """
    root = variant.prepare()
    stages = repo.read(root)
    lost = repo.lost(root, stages.values())
    fates = choice.choose(stages, lost, start_from=request.start_from, only=request.only, force=request.force)
    check_possible(variant, root, choice.running(fates))
    if driver.wanted() and repo.shares_by(root) == "remote":
        # Workers find there what the chain needs, so it need not come here.
        fates = {name: "unchanged" if fate == "restore" else fate for name, fate in fates.items()}
    limits = time_limits.seconds_allowed(stages)
    if request.dry_run:
        plan = choice.plan(root, fates, force=request.force)
        get_run_logger().info("the plan:\n%s", plan)
        return Completed(message=plan)
    if set(fates.values()) == {"unchanged"}:  # a task for each would take longer than to find that out
        states = {name: cached(name) for name in fates}
    else:
        identities = stage_locks.identities(stages)
        tasks = {
            name: StageTask(
                stage=name,
                root=root,
                outputs=stages[name].outputs,
                identity=identities[name],
                unchanged=fate == "unchanged",
                force=request.force and fate == "run",
                seconds=limits.get(name),
            )
            for name, fate in fates.items()
        }
        upstream = {name: stages[name].upstream for name in tasks}
        waiting = [
            name for name, stage_task in tasks.items() if not (stage_task.unchanged or stage_task.force)
        ]
        ahead = WorkAhead([] if driver.wanted() else waiting, root, get_run_logger().info)
        states = run_stages(tasks, upstream, timings.read(root / places.STAGE_SECONDS), ahead)
    untold = track_cached(root, [stages[name] for name, state in states.items() if state.name == "Cached"])
    connection.restart.wait()
    if wrong := {name: state for name, state in states.items() if state.is_failed() or state.is_crashed()}:
        messages = {name: state.message or state.name or "" for name, state in wrong.items()}
        causes = [state.result(raise_on_failure=False) for state in wrong.values()]
        mistakes = not any(getattr(cause, "transient", True) for cause in causes)
        repro = "dvc repro -f -s" if request.force else "dvc repro"
        alone = f"{repro} {' '.join(wrong)}" if not request.overrides else None
        return failed(notices.message(messages, mistakes, request.command(list(wrong)), alone))
    counts = Counter(state.name or "" for state in states.values())
    told = ", ".join(f"{count} {name.lower()}" for name, count in counts.items())
    return Completed(message=f"{told}.\n{untold}" if untold else told)


def failed(message: str) -> State:
    """Return the state of a run that failed, after sending the notice of it."""
    if problem := notices.send(f"{flow_run.get_flow_name()} {flow_run.get_name()}: {message}"):
        get_run_logger().warning("the notice to %s was not delivered: %s", notices.URL, problem)
    return Failed(message=message)


def run_stages(
    tasks: dict[str, StageTask],
    upstream: Mapping[str, tuple[str, ...]],
    seconds: Mapping[str, float],
    ahead: WorkAhead,
) -> dict[str, State]:
    """Run each stage once those above it are done, independent ones at once; return their final states.

    Args:
        tasks: The stages, by name; of equally urgent ones the first begins.
        upstream: The stages that each waits for, by name; those that are not among `tasks` do not count.
        seconds: How long each took the last time, by name.
        ahead: What stages that wait can do while there is room.

    Raises:
        CancelledInUIError: Somebody cancelled the run.
    """
    waits_for = {name: [above for above in upstream[name] if above in tasks] for name in tasks}
    order, urgent = TopologicalSorter(waits_for), urgency(waits_for, seconds)
    order.prepare()
    ready: set[str] = set()
    begun: set[str] = set()
    futures: dict[str, PrefectFuture] = {}
    finished: SimpleQueue[str] = SimpleQueue()
    runs = {str(run) for run in (flow_run.get_id(), flow_run.get_root_flow_run_id()) if run}
    try:
        # Each is submitted when there is room for it: one that waits would be in the way of more urgent ones.
        while order.is_active():
            ready.update(order.get_ready())
            while ready and len(begun) < time_limits.stages_at_once():
                name = max(filter(ready.__contains__, tasks), key=urgent.__getitem__)
                above = [futures[other] for other in waits_for[name]]
                submit = bring_up_to_date.with_options(name=name).submit
                futures[name] = submit(tasks[name], wait_for=above, return_state=False)
                futures[name].add_done_callback(partial(announce, finished, name))
                ready.remove(name)
                begun.add(name)
                ahead.begun(name)
            idle = len(begun) < time_limits.stages_at_once()
            begun.remove(name := next_finished(finished, runs, ahead.go_on if idle else None))
            order.done(name)
            ahead.finished()
        for future in futures.values():
            future.wait()
    except BaseException:  # Control-C, a termination, or a cancellation: leave no stage behind
        processes.stop_all()
        raise
    finally:
        ahead.stop()
    return {name: future.state for name, future in futures.items()}


def announce(finished: SimpleQueue[str], name: str, _future: PrefectFuture) -> None:
    """Put the name of a stage that is done into the queue."""
    finished.put(name)


def next_finished(finished: SimpleQueue[str], runs: set[str], meanwhile: Callable[[], None] | None) -> str:
    """Return the next stage that is done; call `meanwhile` again and again until then.

    Prefect stops a run that a worker started. A run that a person started looks for a cancellation itself.

    Raises:
        CancelledInUIError: Somebody cancelled one of the flow runs `runs`.
    """
    while True:
        if meanwhile:
            meanwhile()
        try:
            return finished.get(timeout=SECONDS_BETWEEN_LOOKS)
        except Empty:
            if connection.cancelled(runs):
                raise CancelledInUIError from None


def track_cached(root: Path, stages: list[repo.Stage]) -> str | None:
    """Link the stages that did not run to the tracked runs that made their outputs.

    Returns:
        A warning if not all that the stages recorded is with the tracker.
    """
    warning = None
    if tracking.wanted():
        known = [manifests.read_if_whole(root / out) for stage in stages for out in stage.outputs]
        tracking.link_cached(root, [manifest for manifest in known if manifest is not None])
        if warning := tracking.send(root, seconds=SECONDS_TO_DELIVER):
            get_run_logger().warning(warning)
    return warning
