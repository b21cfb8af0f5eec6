"""Clears what a dead machine or killed run left: dead locks, half-made variants, damaged files of DVC.

It refuses while anything runs here, and never ends a process.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed

from fewstep.errors import UserError
from flows.dvc import damage, repo, reproduce
from flows.system import git
from flows.workspaces import clone, workspace_lock
from stages.artifacts import places
from stages.process.locks import is_held

PROGRAMS = ("dvc", Path(reproduce.__file__).name)
FLOWS = ("run", "sweep")
"""Commands of `fewstep` that change a workspace."""


def recover(root: Path) -> list[str]:
    """Clear what is left in a checkout and its variants, and mend DVC's files; return a line for each thing.

    Raises:
        UserError: Something runs there.
    """
    variants = root / places.VARIANTS
    projects = [root, *sorted(path.parent for path in variants.glob("*/.dvc"))]
    locks = [workspace_lock.lock_of(root), *sorted(variants.glob("*.lock"))]
    refuse_while_alive(root, projects, locks)
    done = []
    for project in projects:
        done += [f"removed the DVC lock of {what} in {project}" for what in repo.clear_locks(project)]
        done += damage.mend(project)
    for variant in sorted(path.parent for path in variants.glob("*/.git")):
        done += [f"removed git's {name} of a dead process in {variant}" for name in git.clear_locks(variant)]
    for lock in locks:
        done += forget_holder(lock)
    for partial in sorted(variants.glob("*.tmp")):
        shutil.rmtree(partial)
        done.append(f"removed the half-made variant {partial}")
    return done


def refuse_while_alive(root: Path, projects: list[Path], locks: list[Path]) -> None:
    """Refuse a checkout and its variants, the `projects`, in which something runs, or that a worker uses.

    Raises:
        UserError: Something runs; the message names it.
    """
    for lock in locks:
        if is_held(lock):
            raise UserError(f"{workspace_lock.holder(lock)} is running; cancel it or wait for it")
    for folder in clone.in_use(root):  # it shares the cache that would be mended
        raise UserError(f"a worker runs a stage in {folder}; cancel it or wait for it")
    if found := list(running_processes(projects)):
        raise UserError("these are running here; end them or wait for them:\n" + "\n".join(found))


def running_processes(projects: list[Path]) -> Iterator[str]:
    """Yield a line for each process here that runs DVC, a flow or a stage in one of these projects."""
    folders = {str(project.resolve()) for project in projects}
    for process in psutil.process_iter(["pid", "cwd", "cmdline"]):  # None for what may not be read
        words = process.info["cmdline"] or []
        if process.info["cwd"] in folders and process.pid != os.getpid() and is_our_command(words):
            yield f"  process {process.pid}: {' '.join(words)}"


def is_our_command(words: list[str]) -> bool:
    """Return whether a command line is that of DVC, a flow or a stage."""
    names = [os.path.basename(word) for word in words]
    flow = any(name == "fewstep" and after in FLOWS for name, after in pairwise(names))
    # A stage, and no module of a subpackage, such as the sender.
    stage = any(re.fullmatch(r"stages\.\w+", word) for word in words)
    return flow or stage or not set(PROGRAMS).isdisjoint(names)


def forget_holder(lock: Path) -> list[str]:
    """Remove the note of a flow run that died holding a lock, and tell the Prefect server that it did."""
    if not workspace_lock.note_of(lock).exists():
        return []
    who, note = workspace_lock.holder(lock), workspace_lock.read_note(lock)
    workspace_lock.note_of(lock).unlink()
    marked = ""
    if note and PREFECT_API_URL.value():
        with suppress(Exception), get_client(sync_client=True) as client:
            seen = client.read_flow_run(UUID(note["id"])).state
            if seen and not seen.is_final():
                state: State = Crashed(message="its process or machine died; found by `fewstep recover`")
                client.set_flow_run_state(UUID(note["id"]), state, force=True)
                marked = ", and marked it Crashed in Prefect"
    return [f"removed the note of {who}, which died{marked}"]
