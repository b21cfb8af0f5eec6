"""The kinds of garbage: what of each there is, and how it is removed."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from fewstep.errors import UserError
from flows.dvc import repo
from flows.workspaces import workspace_lock
from stages.artifacts.plan import Plan
from stages.artifacts.scratch import Scratch
from stages.settings import checks, discovery


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One kind of garbage."""

    title: str
    cost: str
    """What its removal means for the user."""
    items: dict[str, list[Path]]
    """What there is of it, and the files and folders that each item lies in."""
    remove: Callable[[], None]


def collect(root: Path) -> list[Garbage]:
    """Return the garbage of the project at `root`; there may be none of a kind.

    Raises:
        UserError: a stage is running, here or in an experiment's clone, or DVC cannot be asked.
    """
    if busy := [folder.name for folder in scratch_folders(root) if in_use(folder)]:
        raise UserError(f"{busy[0].rpartition('.')[0]} is running; collect garbage when nothing runs")
    stages = repo.read(root)
    outputs = [root / out for stage in stages.values() for out in stage.outputs]
    return [
        unused_cache(root),
        old_scratch(root),
        old_entries(root),
        old_artifacts(root, outputs),
        variants(root),
        failed_runs(root),
    ]


def unused_cache(root: Path) -> Garbage:
    """Return the part of DVC's cache that neither the workspace nor a branch, tag or experiment uses."""
    paths = repo.unused(root)
    return Garbage(
        title="DVC cache that no workspace, branch, tag or experiment uses",
        cost="settings tried but not kept run anew if you return to them",
        items={f"{len(paths)} files": paths} if paths else {},
        remove=lambda: repo.drop_unused(root),
    )


def old_scratch(root: Path) -> Garbage:
    """Return scratch that today's settings would not go on with."""
    current = dict(current_scratch())

    def is_old(folder: Path) -> bool:
        stage = folder.name.rpartition(".")[0]
        return current.get(stage, "") not in (None, folder.name)

    old = [folder for folder in scratch_folders(root) if is_old(folder)]
    return Garbage(
        title="scratch of settings that are no longer in params.yaml",
        cost="stages killed under those settings start from the beginning if you return to them",
        items={folder.name: [folder] for folder in old},
        remove=lambda: [remove_unless_in_use(folder) for folder in old],
    )


def scratch_folders(root: Path) -> list[Path]:
    """Return the project's own scratch; what lies in FEWSTEP_SCRATCH may be another clone's."""
    parent = root / ".fewstep" / "scratch"
    return [] if os.environ.get("FEWSTEP_SCRATCH") else sorted(parent.glob("[!.]*.*/"))


def current_scratch() -> Iterator[tuple[str, str | None]]:
    """Yield each stage of params.yaml and the name of its scratch, None while its inputs are out of date."""
    params = checks.read_checked()
    for stage in discovery.names():
        for key in params.keys(stage):
            address = discovery.address(stage, key)
            try:
                yield address, Scratch.of(address, Plan.read(params, stage, key).fingerprint).folder.name
            except UserError:
                yield address, None


def old_entries(root: Path) -> Garbage:
    """Return the measured entries that the newest evaluation did not use, and what killed ones half wrote.

    An evaluation touches `began` when it starts, and then each entry it reads or writes
    (stages/evaluation/entries.py), so what it did not use is older. Without `began`, nothing is.
    """
    folder = root / ".fewstep" / "entries"
    began = folder / "began"
    since = began.stat().st_mtime_ns if began.exists() else 0
    old = [file for file in sorted(folder.glob("*")) if file.stat().st_mtime_ns < since]
    return Garbage(
        title="evaluation entries that the newest evaluation did not use",
        cost="earlier models and settings of the evaluation are measured anew if you return to them",
        items={f"{len(old)} files": old} if old else {},
        remove=lambda: [file.unlink(missing_ok=True) for file in old],
    )


def old_artifacts(root: Path, outputs: Iterable[Path]) -> Garbage:
    """Return what lies in artifacts/ and is no stage's output."""
    old = list(strangers(root / "artifacts", set(outputs)))
    return Garbage(
        title="artifacts of stages that are no longer in params.yaml",
        cost="DVC's cache still has those that a branch, tag or experiment uses",
        items={str(path.relative_to(root)): [path] for path in old},
        remove=lambda: [shutil.rmtree(path) for path in old],
    )


def variants(root: Path) -> Garbage:
    """Return the workspaces of overrides and sweeps, but for those where a flow is at work."""
    old = [
        folder
        for folder in sorted((root / ".fewstep" / "variants").glob("*/"))
        if not workspace_lock.is_held(folder.with_suffix(".lock"))
    ]

    def remove(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.with_suffix(".lock").unlink(missing_ok=True)

    return Garbage(
        title="workspaces of overrides and sweeps",
        cost="their results leave the disk, and are made anew if you return to those settings",
        items={str(folder.relative_to(root)): [folder] for folder in old},
        remove=lambda: [remove(folder) for folder in old],
    )


def strangers(folder: Path, outputs: set[Path]) -> Iterator[Path]:
    """Yield the topmost folders below `folder` that neither are, nor hold, nor lie in one of `outputs`."""
    for path in sorted(folder.glob("*/")):
        if path in outputs:
            continue
        if any(out.is_relative_to(path) for out in outputs):
            yield from strangers(path, outputs)
        else:
            yield path


def failed_runs(root: Path) -> Garbage:
    """Return this machine's MLflow runs that failed or were killed; a shared tracker is left alone."""
    database = root / ".fewstep" / "mlflow.db"
    runs = []
    if database.exists() and not os.environ.get("MLFLOW_TRACKING_URI"):
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{database.resolve()}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = failed_and_empty(client.search_runs(experiments, max_results=50_000))
    return Garbage(
        title="MLflow runs that failed or were interrupted",
        cost="they leave the page; `mlflow gc` would remove them for good",
        items={f"{run.info.run_name} ({run.info.status.lower()})": [] for run in runs},
        remove=lambda: [client.delete_run(run.info.run_id) for run in runs],
    )


def failed_and_empty(runs: list) -> list:
    """Return the runs of stages that failed or were killed, and of pipelines that have no other stages."""
    failed = [run for run in runs if run.info.status in ("FAILED", "KILLED")]
    ids = {run.info.run_id for run in failed}
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs if run.info.run_id not in ids}
    return [run for run in failed if run.info.run_id not in parents]


def in_use(folder: Path) -> bool:
    """Return whether a process works in a scratch folder."""
    try:
        with FileLock(Scratch(folder).lock_file).acquire(timeout=0):
            return False
    except Timeout:
        return True


def remove_unless_in_use(folder: Path) -> None:
    """Remove a scratch folder, if no process has begun to work in it meanwhile."""
    with suppress(Timeout), FileLock(Scratch(folder).lock_file).acquire(timeout=0):
        shutil.rmtree(folder)
