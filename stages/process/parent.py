"""A stage ends when the dvc that started it does: an orphan would write beside its own retry.

DVC runs a command through the user's shell. Some shells put themselves between dvc and the stage, and
the kernel tells only of the parent's death, so the first process above the shells is watched as well.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from fewstep.errors import UserError

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash"}
PR_SET_PDEATHSIG = 1
POLL = 0.2  # seconds


class Process(NamedTuple):
    """A process as /proc tells of it."""

    pid: int
    started: str
    """Clock ticks since boot; with the pid it names a process for good."""
    name: str
    parent: int
    session: int


def die_with_dvc() -> None:
    """Arrange to be killed when dvc dies; nothing is arranged for a stage that a person started.

    Raises:
        UserError: if it is dead already.
    """
    if "DVC_STAGE" not in os.environ or not sys.platform.startswith("linux"):
        return
    die_with_parent()
    dvc = starter()
    if dvc is None or adopts(dvc):
        raise UserError("the dvc that started this was killed; run `dvc repro` again")
    if dvc.pid != os.getppid():
        threading.Thread(target=_watch, args=(dvc,), daemon=True).start()


def adopts(process: Process) -> bool:
    """Return whether a process is no dvc but who adopted this one when dvc had died.

    dvc runs commands in its own session, and orphans are adopted from outside of it. In a container
    that need not be so, but there process 1 adopts, which is dvc itself or something else than Python.
    """
    return process.session != os.getsid(0) or (
        process.pid == 1 and not process.name.startswith(("dvc", "python"))
    )


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os.kill(os.getpid(), signal.SIGKILL)


def follow_parent() -> None:
    """Leave it to the parent when to stop: die with it, and ignore Control-C, which stops it."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def starter() -> Process | None:
    """Return the first ancestor that is no shell, or the last if all are shells; None if it is gone."""
    found = _look_up(os.getppid())
    while found and found.name in SHELLS and found.parent:
        found = _look_up(found.parent)
    return found


def _look_up(pid: int) -> Process | None:
    """Return a process, None if it is gone; one that is dead and waits to be reaped is."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    fields = after.split()
    if fields[0] in "ZX":
        return None
    return Process(pid, fields[19], before.partition("(")[2], int(fields[1]), int(fields[3]))


def alive(process: Process) -> bool:
    """Return whether a process still runs."""
    found = _look_up(process.pid)
    return found is not None and found.started == process.started


def _watch(dvc: Process) -> None:
    while alive(dvc):
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGKILL)
