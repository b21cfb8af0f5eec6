"""Garbage: what nothing uses any more, by kind; lists it, and removes it after a yes."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fewstep.errors import UserError
from fewstep.files import remove
from fewstep.lazy import lazy_imports
from flows.dvc import repo
from flows.workspaces import clone, workspace_lock
from stages.artifacts import places
from stages.artifacts.plan import Plan
from stages.artifacts.scratch import Scratch
from stages.process.locks import is_held
from stages.settings import checks, discovery
from stages.tracking import outboxes

with lazy_imports():  # loaded at first use
    import mlflow


def run(root: Path, yes: bool) -> None:
    """List the garbage, and remove it after a yes; with `yes`, without asking.

    Raises:
        UserError: Something runs, or has begun before the yes; or there is nobody to ask.
    """
    kinds = [kind for kind in collect(root) if kind.items]
    for kind in kinds:
        print(f"\n{kind.title}\n  ({kind.cost})")
        for item, paths in kind.items.items():
            print(f"  {item}" + (f", {readable(freed(paths))}" if paths else ""))
    if not kinds:
        print("Nothing to remove.")
        return
    everything = [path for kind in kinds for paths in kind.items.values() for path in paths]
    print(f"\nRemoving it all frees {readable(freed(everything))}; a file linked elsewhere frees nothing.")
    if yes or agreed():
        refuse_while_busy(root)  # again, since the question may have been open for long
        for kind in kinds:
            kind.remove()
        print("Removed.")


def agreed() -> bool:
    """Ask for a yes.

    Raises:
        UserError: There is nobody to ask.
    """
    try:
        return input("Remove? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        raise UserError("nothing removed: there is no terminal to confirm; use `fewstep gc --yes`") from None


def freed(paths: Iterable[Path]) -> int:
    """Return the bytes on disk that removing `paths` gives back; a file with a link elsewhere gives none."""
    kept = [path for path in paths if not path.is_symlink()]  # what a link leads to stays
    files = [
        file for path in kept for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
    ]
    stats = [file.lstat() for file in files]
    seen = Counter((stat.st_dev, stat.st_ino) for stat in stats)
    sizes = {(stat.st_dev, stat.st_ino): (stat.st_nlink, stat.st_size) for stat in stats}
    return sum(size for inode, (links, size) in sizes.items() if seen[inode] == links)


def readable(count: float) -> str:
    """Write a number of bytes as people do."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One kind of garbage."""

    title: str
    cost: str
    """What its removal costs the user."""
    items: dict[str, list[Path]]
    """What there is of it, and the files and folders that each item lies in."""
    remove: Callable[[], None]


def for_each(remove: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Remove each item."""
    for item in items:
        remove(item)


def collect(root: Path) -> list[Garbage]:
    """Return the garbage of the project at `root`; there may be none of a kind.

    Raises:
        UserError: A flow or a stage is running, here or in a clone with the same scratch, or DVC fails.
    """
    refuse_while_busy(root)
    stages = repo.read(root)
    outputs = [root / out for stage in stages.values() for out in stage.outputs]
    return [
        unused_cache(root),
        old_scratch(),
        old_entries(root),
        old_artifacts(root, outputs),
        variants(root),
        failed_runs(root),
    ]


def refuse_while_busy(root: Path) -> None:
    """Refuse to collect what a flow or a stage may need; a flow's next stage may begin at any time.

    Raises:
        UserError: One is running, here, in a variant, for a worker or in a clone with the same scratch.
    """
    busy = [stage_of(folder) for folder in scratch_folders() if is_held(Scratch(folder).lock_file)]
    locks = [workspace_lock.lock_of(root), *sorted((root / places.VARIANTS).glob("*.lock"))]
    busy += [workspace_lock.holder(lock) for lock in locks if is_held(lock)]
    busy += [f"a worker's stage in {folder}" for folder in clone.in_use(root)]
    if busy:
        raise UserError(f"{busy[0]} is running; collect garbage when nothing runs")


def unused_cache(root: Path) -> Garbage:
    """Return the part of DVC's cache that neither the workspace nor a branch, tag or experiment uses."""
    paths = repo.unused(root)
    return Garbage(
        title="DVC cache that no workspace, branch, tag or experiment uses",
        cost="stages run again if you return to settings that you tried but did not keep",
        items={f"{len(paths)} files": paths} if paths else {},
        remove=lambda: repo.drop_unused(root),
    )


def old_scratch() -> Garbage:
    """Return scratch that no stage would resume from with today's settings.

    Where the inputs of a stage are not here, as on a worker, nobody knows which that is: its newest stays.
    What lies in FEWSTEP_SCRATCH may be another clone's, which has settings of its own, so it stays.
    """
    by_age = sorted(scratch_folders(), key=lambda folder: folder.stat().st_mtime)
    newest = {stage_of(folder): folder.name for folder in by_age}
    current = {stage: name or newest.get(stage) for stage, name in current_scratch()}
    shared = os.environ.get("FEWSTEP_SCRATCH")
    old = [] if shared else [folder for folder in by_age if current.get(stage_of(folder)) != folder.name]
    return Garbage(
        title="scratch of settings that are no longer in params.yaml",
        cost="stages killed under those settings start from the beginning if you return to them",
        items={folder.name: [folder] for folder in old},
        remove=partial(for_each, remove_unless_in_use, old),
    )


def stage_of(scratch: Path) -> str:
    """Return the stage that works, or did, in a folder of scratch."""
    return scratch.name.rpartition(".")[0]


def scratch_folders() -> list[Path]:
    """Return the folders that stages work in, or did, wherever scratch is."""
    return sorted(Scratch.parent().glob("[!.]*.*/"))


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
    """Return the entries that the newest evaluation did not use, and those that killed ones half wrote.

    An evaluation touches `began` when it starts, and then each entry it reads or writes
    (stages/evaluation/entries.py), so what it did not use is older. Without `began`, nothing is.
    """
    folder = root / places.ENTRIES
    began = folder / "began"
    since = began.stat().st_mtime_ns if began.exists() else 0
    old = [file for file in sorted(folder.glob("*")) if file.stat().st_mtime_ns < since]
    return Garbage(
        title="evaluation entries that the newest evaluation did not use",
        cost="earlier models and settings are measured again if you return to them",
        items={f"{len(old)} files": old} if old else {},
        remove=partial(for_each, partial(Path.unlink, missing_ok=True), old),
    )


def old_artifacts(root: Path, outputs: Iterable[Path]) -> Garbage:
    """Return what is in artifacts/ but no stage's output."""
    old = list(unowned_folders(root / "artifacts", set(outputs)))
    return Garbage(
        title="artifacts of stages that are no longer in params.yaml",
        cost="DVC's cache still has those that a branch, tag or experiment uses",
        items={str(path.relative_to(root)): [path] for path in old},
        remove=partial(for_each, remove, old),
    )


def variants(root: Path) -> Garbage:
    """Return the workspaces of overrides and sweeps."""
    old = sorted((root / places.VARIANTS).glob("*/"))
    return Garbage(
        title="workspaces of overrides and sweeps",
        cost="their results leave the disk, and stages run again if you return to those settings",
        items={str(folder.relative_to(root)): [folder] for folder in old},
        remove=partial(for_each, remove_variant, old),
    )


def remove_variant(folder: Path) -> None:
    """Remove a variant and its lock, which is held meanwhile, or say that a flow has begun to use it."""
    lock = folder.with_suffix(".lock")
    try:
        with workspace_lock.held(lock, "fewstep gc", None):
            remove(folder)
            lock.unlink()
    except UserError:
        print(f"{folder} stays: {workspace_lock.holder(lock)} has begun to use it")


def unowned_folders(folder: Path, outputs: set[Path]) -> Iterator[Path]:
    """Yield the topmost folders below `folder` that are not, do not hold and are not in one of `outputs`."""
    for path in sorted(folder.glob("*/")):
        if path in outputs:
            continue
        if any(out.is_relative_to(path) for out in outputs):
            yield from unowned_folders(path, outputs)
        else:
            yield path


def failed_runs(root: Path) -> Garbage:
    """Return this machine's MLflow runs that failed or were killed; a shared tracker is left alone."""
    runs: list[Any] = []
    if (root / places.TRACKER).exists() and not os.environ.get("MLFLOW_TRACKING_URI"):
        client = mlflow.MlflowClient(outboxes.database(root))
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = failed_and_empty(client.search_runs(experiments, max_results=50_000))
    return Garbage(
        title="MLflow runs that failed or were interrupted",
        cost="they disappear from MLflow's page; `mlflow gc` removes them for good",
        items={f"{run.info.run_name} ({run.info.status.lower()})": [] for run in runs},
        remove=partial(for_each, lambda run: client.delete_run(run.info.run_id), runs),
    )


def failed_and_empty(runs: list[Any]) -> list[Any]:
    """Return the runs of stages that failed or were killed, and of pipelines that have no other stages."""
    failed = [run for run in runs if run.info.status in ("FAILED", "KILLED")]
    ids = {run.info.run_id for run in failed}
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs if run.info.run_id not in ids}
    return [run for run in failed if run.info.run_id not in parents]


def remove_unless_in_use(folder: Path) -> None:
    """Remove a scratch folder, unless a process has begun to use it meanwhile."""
    with suppress(Timeout), FileLock(Scratch(folder).lock_file).acquire(timeout=0):
        remove(folder)
