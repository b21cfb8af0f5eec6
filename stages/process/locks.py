"""Locks of other processes."""

from pathlib import Path

from filelock import FileLock, Timeout


def is_held(lock: Path) -> bool:
    """Return whether a process holds a lock; no lock is made by that."""
    if not lock.exists():  # to ask for it would make it
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except FileNotFoundError:  # its folder has gone meanwhile
        return False
    except Timeout:
        return True
