"""One flow at a time in a workspace; a second one is refused and names the first."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fewstep.errors import UserError
from stages.artifacts import places
from stages.process.locks import is_held


def lock_of(root: Path) -> Path:
    """Return the lock of a checkout."""
    return root / places.FLOW_LOCK


def note_of(lock: Path) -> Path:
    """Return the note on who holds a lock, or held it when the machine died."""
    return lock.with_suffix(".json")


@contextmanager
def held(lock: Path, name: str, run: str | None) -> Iterator[None]:
    """Hold a workspace for the flow run of that name and id, or for a command, which has no id.

    Raises:
        UserError: Another flow run or command holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock).acquire(timeout=0):
            note = {"name": name, "id": run, "pid": os.getpid(), "host": socket.gethostname()}
            note_of(lock).write_text(json.dumps(note))
            try:
                yield
            finally:
                note_of(lock).unlink(missing_ok=True)
    except Timeout:
        raise UserError(_in_use(lock)) from None


def must_be_free(lock: Path) -> None:
    """Refuse a workspace that a flow run holds.

    Raises:
        UserError: One does.
    """
    if is_held(lock):
        raise UserError(_in_use(lock))


def _in_use(lock: Path) -> str:
    return (
        f"{holder(lock)} uses this workspace; wait for it or cancel it, or run other settings as overrides, "
        "which have a workspace of their own"
    )


def holder(lock: Path) -> str:
    """Return who holds a lock, or held it when the machine died, for a message."""
    note = read_note(lock)
    if not note:
        return "another flow run"
    where = f"process {note['pid']} on {note['host']}"
    return f"flow run {note['name']} ({note['id']}, {where})" if note["id"] else f"`{note['name']}` ({where})"


def read_note(lock: Path) -> dict | None:
    """Return the note on who holds a lock, None if there is none."""
    try:
        return json.loads(note_of(lock).read_text())
    except (FileNotFoundError, ValueError):
        return None
