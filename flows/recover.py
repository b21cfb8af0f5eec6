"""Recover: clear what a dead machine or a killed run has left: locks of dead processes, half-made variants.

It refuses while anything is at work here, and never ends a process.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed

from fewstep.errors import UserError
from flows.dvc import repo
from flows.workspaces import workspace_lock

WORKERS = ("dvc", "flows.pipeline", "flows.sweep", "flows.stage")


def recover(root: Path) -> list[str]:
    """Clear what is left in a checkout and its variants; return a line for each thing that was done.

    Raises:
        UserError: something is at work there.
    """
    variants = root / ".fewstep" / "variants"
    projects = [root, *sorted(path.parent for path in variants.glob("*/.dvc"))]
    locks = [workspace_lock.lock_of(root), *sorted(variants.glob("*.lock"))]
    refuse_while_alive(projects, locks)
    done = []
    for project in projects:
        done += [f"removed the DVC lock of {what} in {project}" for what in repo.clear_locks(project)]
    for lock in locks:
        done += forget_holder(lock)
    for partial in sorted(variants.glob("*.tmp")):
        shutil.rmtree(partial)
        done.append(f"removed the half-made variant {partial}")
    return done


def refuse_while_alive(projects: list[Path], locks: list[Path]) -> None:
    """Return if nothing is at work in these projects.

    Raises:
        UserError: something is; the message names it.
    """
    for lock in locks:
        if workspace_lock.is_held(lock):
            raise UserError(f"{workspace_lock.holder(lock)} is at work; cancel it or wait for it")
    if found := list(at_work(projects)):
        raise UserError("these are at work here; end them or wait for them:\n" + "\n".join(found))


def at_work(projects: list[Path]) -> Iterator[str]:
    """Yield a line for each process of this machine that works in one of these projects."""
    folders = {project.resolve() for project in projects}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            here = (entry / "cwd").resolve() in folders
        except OSError:  # it has ended, or is another person's
            continue
        if here and int(entry.name) != os.getpid() and any(map(works, words)):
            yield f"  process {entry.name}: {' '.join(words)}"


def works(word: str) -> bool:
    """Return whether a word of a command line says that it is dvc, a flow or a stage."""
    stage = re.fullmatch(r"stages\.\w+", word) is not None  # not the modules of its rooms, such as the sender
    return stage or word in WORKERS or os.path.basename(word) == "dvc"


def forget_holder(lock: Path) -> list[str]:
    """Remove the note of a flow run that died holding a lock, and tell the Prefect server that it did."""
    if not workspace_lock.note_of(lock).exists():
        return []
    who, note = workspace_lock.holder(lock), workspace_lock.read_note(lock)
    workspace_lock.note_of(lock).unlink()
    told = ""
    if note and PREFECT_API_URL.value():
        with suppress(Exception), get_client(sync_client=True) as client:
            if not client.read_flow_run(UUID(note["id"])).state.is_final():
                state = Crashed(message="its process or machine died; found by `python -m flows.recover`")
                client.set_flow_run_state(UUID(note["id"]), state, force=True)
                told = ", and marked it Crashed in Prefect"
    return [f"forgot {who}, which died{told}"]


def main(root: Path) -> None:
    """Recover, and say what was done."""
    try:
        done = recover(root)
    except UserError as error:
        sys.exit(str(error))
    print("\n".join(done) or "There was nothing to recover.")
    print("Go on with: python -m flows.pipeline")


if __name__ == "__main__":
    main(Path.cwd())
