"""Where a worker runs a stage: a clone of its checkout, with the driver's settings and dvc.lock.

The checkout stays as it is, whatever happens to the stage, and variants run side by side. They share the
checkout's cache, so nothing is copied.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fewstep.errors import UserError
from flows.dvc import lockfile, repo
from flows.planning import choice
from flows.system import git
from stages.artifacts import manifests

TRAVELS = ("params.yaml", lockfile.FILE)
"""Files that the driver hands over, so that they may differ."""


def check_clean(root: Path, whose: str) -> None:
    """See to it that a checkout is its commit, apart from what travels.

    Args:
        root: The checkout.
        whose: What it is, for the message.

    Raises:
        UserError: a file differs, or is not in git; the message names the first few.
    """
    if changed := [file for file in git.changes(root) if file not in TRAVELS]:
        raise UserError(
            f"{whose} checkout at commit {git.commit(root)[:12]} differs from it, and other machines know "
            f"the commit only: {', '.join(changed[:5])}. Commit them (or `dvc add` what is large), or undo "
            "the change"
        )


@contextmanager
def clone(checkout: Path, name: str, lock: str, params: str) -> Iterator[Path]:
    """Give a clone of a checkout's commit, with these texts as dvc.lock and params.yaml, for a while.

    Args:
        checkout: The checkout.
        name: Of the clone's folder, which no other has.
        lock: The text of dvc.lock, empty for none.
        params: The text of params.yaml.
    """
    folder = checkout / ".fewstep" / "workspaces"
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    root, alive = folder / name, folder / f"{name}.alive"
    with FileLock(alive):
        try:
            git.git(folder, "clone", "--quiet", "--shared", str(checkout), str(root))
            repo.share(checkout, root)
            if lock:
                (root / lockfile.FILE).write_text(lock)
            (root / "params.yaml").write_text(params)
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)
            alive.unlink(missing_ok=True)


def bring_in(stage: str, root: Path, log: Callable[[str], None]) -> None:
    """Put what a stage reads into its workspace, and the manifests of what that rests on.

    `dvc repro --pull` alone fails on an input that is a folder of several outputs, and knows nothing of the
    manifests, of which the report and the tracker tell.

    Args:
        stage: Its name in dvc.yaml, key included.
        root: The workspace.
        log: Called with each line that DVC prints.

    Raises:
        StageError: something is not to be had.
    """
    stages = repo.read(root)
    found = stages[stage]
    near = [out for name in found.upstream for out in stages[name].outputs]
    far = [out for name in sorted(choice.above(stages, [stage])) for out in stages[name].outputs]
    manifests = [f"{out}/{manifests.NAME}" for out in far if out not in near]
    tracked = git.git(root, "ls-files", "*.dvc").splitlines()
    data = [file for file in tracked if any(Path(file).is_relative_to(path) for path in found.inputs)]
    # No names of stages: DVC brings less than was asked for if they stand beside a file of an output.
    if targets := [*near, *manifests, *data]:
        repo.run(stage, root, repo.bringing(root, *targets), log)


def send_out(stage: str, root: Path, log: Callable[[str], None]) -> None:
    """Put the output of a stage, and the record of its run, where other machines find them.

    Raises:
        StageError: the remote did not take them.
    """
    if repo.shares_by(root) == "remote":
        repo.run(stage, root, ["push", "--run-cache", stage], log)


def _clear(folder: Path) -> None:
    """Remove the clones that killed workers left."""
    for alive in folder.glob("*.alive"):
        with suppress(Timeout), FileLock(alive, timeout=0):
            shutil.rmtree(alive.with_suffix(""), ignore_errors=True)
            alive.unlink(missing_ok=True)
