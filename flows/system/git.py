"""Commands of git."""

import os
import subprocess
from pathlib import Path

from fewstep.errors import UserError

LOCKS = ("index.lock", "HEAD.lock")
"""What a checkout locks: the list of its files, and the commit that it is at."""


def commit(root: Path) -> str:
    """Return the commit of a checkout."""
    return git(root, "rev-parse", "HEAD").strip()


def first_commit(root: Path) -> str:
    """Return the commit that a project began with, which all its clones share."""
    return git(root, "rev-list", "--max-parents=0", "HEAD").split()[-1]


def changes(root: Path) -> list[str]:
    """Return the files of a checkout that are not as in its commit, or not in git."""
    return [line[3:] for line in git(root, "status", "--porcelain").splitlines()]


def clear_locks(root: Path) -> list[str]:
    """Remove the locks that a killed `git checkout` left in a clone; return their names.

    They lock by their existence. The caller knows that no git works there.
    """
    locks = [lock for name in LOCKS if (lock := root / ".git" / name).exists()]
    for lock in locks:
        lock.unlink()
    return [lock.name for lock in locks]


def git(root: Path, *arguments: str) -> str:
    """Run a git command in `root` and return what it prints.

    Raises:
        UserError: It failed, or there is no git.
    """
    # In a git hook, variables name the hook's repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True)
    except FileNotFoundError:
        raise UserError("overrides and workers need git; install it") from None
    if done.returncode:
        raise UserError(
            f"overrides and workers need a git clone of {root}, but git {arguments[0]} failed: "
            f"{os.fsdecode(done.stderr).strip()}"
        )
    return os.fsdecode(done.stdout)  # names of files may be any bytes
