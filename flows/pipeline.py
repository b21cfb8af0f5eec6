"""The pipeline as a Prefect flow: a task per stage of dvc.yaml, in its order, several at once.

Prefect schedules, retries and shows; what is up to date, DVC alone decides.
"""

import os
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path
from queue import SimpleQueue

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from fewstep.errors import UserError
from flows import _artifacts, _dvc
from flows._failures import StageError
from stages import _manifest, _tracking
from stages._params import Params

SECONDS_FOR_TRACKING = 2.0  # what is not delivered by then, the sender goes on with


def stages_at_once() -> int:
    """Return how many independent stages may run at once: FEWSTEP_STAGES_AT_ONCE, else two."""
    wanted = os.environ.get("FEWSTEP_STAGES_AT_ONCE", "2")
    if not (wanted.isdecimal() and int(wanted)):
        sys.exit(f"FEWSTEP_STAGES_AT_ONCE must be a number of stages from 1, got {wanted!r}")
    return int(wanted)


def may_pass_next_time(_task: Task, _run: TaskRun, state: State) -> bool:
    """Return whether a failed stage deserves another try."""
    return isinstance(state.data, StageError) and state.data.transient


@task(
    task_run_name="{stage}",
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=may_pass_next_time,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def bring_up_to_date(stage: str, root: Path, unchanged: bool, outputs: tuple[str, ...]) -> State:
    """Give a stage its turn with DVC, or none when it is known to have nothing to do.

    Args:
        stage: Its name in dvc.yaml.
        root: The folder of dvc.yaml.
        unchanged: Neither it nor anything it depends on has changed.
        outputs: The folders it writes, whose pages Prefect shows if there is something new.

    Returns:
        Completed when it ran, Cached when its earlier output serves, Failed with what it said last.
    """
    outcome: _dvc.Outcome = "unchanged"
    if not unchanged:
        try:
            outcome = _dvc.reproduce(stage, root, _artifacts.Progress(stage))
        except StageError as failure:
            return Failed(message=str(failure), data=failure)
        _artifacts.show(stage, root, outputs)
    if outcome == "ran":
        return Completed(message=f"{stage} ran")
    told = "restored from the run-cache" if outcome == "cached" else "nothing changed"
    return Completed(name="Cached", message=f"{stage}: {told}")


@flow(name="fewstep", task_runner=ThreadPoolTaskRunner(max_workers=stages_at_once()), persist_result=False)
def pipeline(root: Path = Path()) -> State:
    """Bring every stage of dvc.yaml up to date.

    Args:
        root: The folder of dvc.yaml.

    Returns:
        Completed with the count of each outcome, or Failed with what each failed stage said.
    """
    try:
        check_settings(root)
        stages = _dvc.read(root)
    except UserError as error:
        return Failed(message=str(error))
    # The tracker's name of this run, for the stages' processes and for link_cached.
    os.environ["FEWSTEP_PIPELINE"] = f"{flow_run.get_name()}-{flow_run.get_id()}"
    states = take_turns(root, stages)
    track_cached(root, [stages[name] for name, state in states.items() if state.name == "Cached"])
    if failed := [state.message for state in states.values() if state.is_failed() or state.is_crashed()]:
        return Failed(message="\n".join(failed))
    counts = Counter(state.name for state in states.values())
    return Completed(message=", ".join(f"{count} {name.lower()}" for name, count in counts.items()))


def take_turns(root: Path, stages: dict[str, _dvc.Stage]) -> dict[str, State]:
    """Run each stage once those above it are done, independent ones at once; return their final states."""
    unchanged: set[str] = set()
    for stage in stages.values():
        if not stage.changed and unchanged.issuperset(stage.upstream):
            unchanged.add(stage.name)
    order = TopologicalSorter({stage.name: stage.upstream for stage in stages.values()})
    order.prepare()
    futures: dict[str, PrefectFuture] = {}
    finished: SimpleQueue[str] = SimpleQueue()
    # Each is submitted when it is ready, since a task that waits for another holds one of few threads.
    while order.is_active():
        for name in order.get_ready():
            above = [futures[other] for other in stages[name].upstream]
            submit = bring_up_to_date.with_options(name=name).submit
            futures[name] = submit(name, root, name in unchanged, stages[name].outputs, wait_for=above)
            futures[name].add_done_callback(lambda _, name=name: finished.put(name))
        order.done(finished.get())
    for future in futures.values():
        future.wait()
    return {name: future.state for name, future in futures.items()}


def track_cached(root: Path, stages: list[_dvc.Stage]) -> None:
    """Link the stages that did not run to the tracked runs that made their outputs."""
    if _tracking.wanted():
        manifests = [_manifest.read(root / out) for stage in stages for out in stage.outputs]
        _tracking.link_cached(root, [manifest for manifest in manifests if manifest is not None])
        if warning := _tracking.send(root, SECONDS_FOR_TRACKING):
            get_run_logger().warning(warning)


def check_settings(root: Path) -> None:
    """Decode the settings of every stage.

    Raises:
        UserError: any is wrong; the message has a line for each.
    """
    Params.read(root / "params.yaml").check()


def main(root: Path) -> None:
    """Run the flow and end the process with a line on how it went."""
    try:
        check_settings(root)  # before waiting for a server
    except UserError as error:
        sys.exit(str(error))
    state = pipeline(root, return_state=True)
    if not state.is_completed():
        sys.exit(f"\n{state.message}")
    print(f"All stages are up to date: {state.message}.")


if __name__ == "__main__":
    main(Path.cwd())
