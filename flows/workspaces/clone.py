"""The folder in which a worker runs a stage: a clone of its checkout with the driver's settings and dvc.lock.

The checkout never changes, whatever happens to the stage, and variants run side by side. Clones share the
checkout's cache, so nothing is copied.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fewstep.errors import UserError
from flows.dvc import commands, lockfile, repo
from flows.planning import choice
from flows.system import git
from stages.artifacts import manifests, places
from stages.process.locks import is_held

HANDED_OVER = ("params.yaml", lockfile.FILE)
"""Files that the driver sends to the worker, so they may differ from the commit."""


def check_clean(root: Path, whose: str) -> None:
    """Refuse a checkout that differs from its commit, apart from the files that the driver hands over.

    Args:
        root: The checkout.
        whose: Whose it is, for the message.

    Raises:
        UserError: A file differs, or is not in git; the message names the first few.
    """
    if changed := [file for file in git.changes(root) if file not in HANDED_OVER]:
        raise UserError(
            f"{whose} checkout at commit {git.commit(root)[:12]} differs from it, but other machines have "
            f"the commit only: {', '.join(changed[:5])}. Commit them (or `dvc add` what is large), or undo "
            "the change"
        )


@contextmanager
def clone(checkout: Path, name: str, lock: str, params: str) -> Iterator[Path]:
    """Make a clone of a checkout's commit with these texts as dvc.lock and params.yaml; remove it at the end.

    Args:
        checkout: The checkout.
        name: Of the clone's folder; no other clone has it.
        lock: The text of dvc.lock, empty for none.
        params: The text of params.yaml.
    """
    folder = checkout / places.CLONES
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    root, alive = folder / name, folder / f"{name}.alive"
    with FileLock(alive):
        try:
            git.git(folder, "clone", "--quiet", "--shared", str(checkout), str(root))
            repo.share(checkout, root)
            if lock:
                (root / lockfile.FILE).write_text(lock)
            else:  # the commit may have one
                (root / lockfile.FILE).unlink(missing_ok=True)
            (root / "params.yaml").write_text(params)
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)
            alive.unlink(missing_ok=True)


def in_use(checkout: Path) -> list[Path]:
    """Return the clones in which workers run stages now."""
    locks = sorted((checkout / places.CLONES).glob("*.alive"))
    return [lock.with_suffix("") for lock in locks if is_held(lock)]


def bring_in(stage: str, root: Path, log: Callable[[str], None]) -> None:
    """Bring the inputs of a stage into its workspace, and the manifests of everything above it.

    `dvc repro --pull` alone fails on an input that is a folder of several outputs. It does not bring the
    manifests either, which the report and the tracker read.

    Args:
        stage: Its name in dvc.yaml, key included.
        root: The workspace.
        log: Called with each line that DVC prints.

    Raises:
        StageError: An input is not in the shared storage.
    """
    stages = repo.read(root)
    found = stages[stage]
    near = [out for name in found.upstream for out in stages[name].outputs]
    far = [out for name in sorted(choice.above(stages, [stage])) for out in stages[name].outputs]
    facts = [f"{out}/{manifests.NAME}" for out in far if out not in near]
    tracked = git.git(root, "ls-files", "*.dvc").splitlines()
    data = [file for file in tracked if any(Path(file).is_relative_to(path) for path in found.inputs)]
    # No names of stages: beside a file of an output, DVC brings less than was asked for.
    if targets := [*near, *facts, *data]:
        commands.run(stage, root, commands.bringing(root, *targets), log)


def _clear(folder: Path) -> None:
    """Remove the clones that killed workers left."""
    for alive in folder.glob("*.alive"):
        with suppress(Timeout), FileLock(alive, timeout=0):
            shutil.rmtree(alive.with_suffix(""), ignore_errors=True)
            alive.unlink(missing_ok=True)
