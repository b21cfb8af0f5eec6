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

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash"}
PR_SET_PDEATHSIG = 1
POLL = 0.2  # seconds


def die_with_dvc() -> None:
    """Arrange to be killed when dvc dies; nothing is arranged for a stage that a person started."""
    if "DVC_STAGE" not in os.environ or not sys.platform.startswith("linux"):
        return
    die_with_parent()
    dvc = starter()
    if dvc[0] != os.getppid():
        threading.Thread(target=_watch, args=(dvc,), daemon=True).start()


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os.kill(os.getpid(), signal.SIGKILL)


def starter() -> tuple[int, str]:
    """Return the pid and start time, in clock ticks since boot, of the first ancestor that is no shell."""
    pid = os.getppid()
    while (found := _look_up(pid)) and found[0] in SHELLS and found[1] > 1:
        pid = found[1]
    return pid, found[2] if found else ""


def _look_up(pid: int) -> tuple[str, int, str] | None:
    """Return the name, the parent and the start time of a process, None if it is gone."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    fields = after.split()
    return before.partition("(")[2], int(fields[1]), fields[19]


def alive(pid: int, started: str) -> bool:
    """Return whether the process that had this pid and start time still runs."""
    found = _look_up(pid)
    return found is not None and found[2] == started


def _watch(dvc: tuple[int, str]) -> None:
    while alive(*dvc):
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGKILL)
