"""A stage ends when the dvc that started it does: an orphan would write beside its own retry.

DVC runs a command through the user's shell. Some shells put themselves between dvc and the stage, and
the kernel reports the parent's death alone, so the first process above the shells is watched as well.
"""

import ctypes
import os
import signal
import sys
import threading
import time

import psutil

from fewstep.errors import UserError

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "ash"}
PR_SET_PDEATHSIG = 1
POLL = 0.2  # seconds


def die_with_dvc() -> None:
    """Arrange to be killed when dvc dies; nothing is arranged for a stage that a person started.

    Raises:
        UserError: if it is dead already.
    """
    if "DVC_STAGE" not in os.environ or not sys.platform.startswith("linux"):
        return
    die_with_parent()
    dvc = starter()
    if dvc is None or is_subreaper(dvc):
        raise UserError("the dvc that started this was killed; run `dvc repro` again")
    if dvc.pid != os.getppid():
        threading.Thread(target=_watch, args=(dvc,), daemon=True).start()


def is_subreaper(process: psutil.Process) -> bool:
    """Return whether a process is not dvc, but the one that this process was reparented to when dvc died.

    dvc runs commands in its own session, and orphans get a parent outside of it: init or a subreaper. In
    a container that need not be so, but there it is process 1, which is dvc itself or no Python.
    """
    try:
        session = os.getsid(process.pid)
    except ProcessLookupError:
        return True
    return session != os.getsid(0) or (process.pid == 1 and not process.name().startswith(("dvc", "python")))


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


def starter() -> psutil.Process | None:
    """Return the first ancestor that is no shell, or the last if all are shells; None if it is gone."""
    try:
        found = look_up(os.getppid())
        while found and found.name() in SHELLS and found.ppid():
            found = look_up(found.ppid())
    except psutil.Error:  # it ended meanwhile
        return None
    return found


def look_up(pid: int) -> psutil.Process | None:
    """Return a process, None if it is gone; one that is dead and waits to be reaped is."""
    try:
        process = psutil.Process(pid)
    except psutil.Error:
        return None
    return process if alive(process) else None


def alive(process: psutil.Process) -> bool:
    """Return whether a process still runs."""
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _watch(dvc: psutil.Process) -> None:
    while alive(dvc):
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGKILL)
