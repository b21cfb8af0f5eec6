"""Processes as /proc shows them, and waiting for what they do."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Process:
    """A process that runs."""

    pid: int
    parent: int
    group: int


def look_up(pid: int) -> Process | None:
    """Return a process, None if it has ended; what ended stays listed until it is reaped, if ever."""
    try:
        state, parent, group, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else Process(pid, int(parent), int(group))


def alive(pid: int) -> bool:
    """Say whether a process runs."""
    return look_up(pid) is not None


def everyone() -> list[Process]:
    """Return all processes that run."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [process for process in map(look_up, pids) if process]


def group(leader: int) -> list[int]:
    """Return what runs in a process group."""
    return [process.pid for process in everyone() if process.group == leader]


def below(ancestor: int) -> list[int]:
    """Return what a process started, and what that started, whatever their sessions."""
    processes, found = everyone(), [ancestor]
    for pid in found:
        found += [process.pid for process in processes if process.parent == pid]
    return found[1:]


def wait_for(condition: Callable[[], Any], seconds: float = 300, every: float = 0.01) -> Any:
    """Wait until `condition()` holds, asked `every` so many seconds, and return what it returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
    return found


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Kill a process at once, as a user's `kill -9` would; it may have ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, how)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a child of ours do nothing for a while, so that what is to happen meanwhile does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def awake(*leaders: int) -> Iterator[None]:
    """Let servers, each of which leads a process group, work meanwhile and then rest until the next time.

    One that waits for work is never idle: Prefect's takes several hundredths of a core.
    """

    def tell_all(what: signal.Signals) -> None:
        for leader in leaders:
            with suppress(ProcessLookupError):  # a test that needs it says what became of it
                os.killpg(leader, what)

    tell_all(signal.SIGCONT)
    try:
        yield
    finally:
        tell_all(signal.SIGSTOP)
