"""Child processes that never outlive the flow: each is a process group, interrupted first and killed later.

A stage that is interrupted leaves no lock, and a later run resumes it. The children of one flow run are
stopped together, with those of the flow runs that it starts.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

GRACE = 8.0  # seconds that an interrupted child has to end

# Runs before the child's program. The kernel kills the child when the flow is killed. Control-C must work,
# which a shell turns off for what it runs in the background.
FOLLOW = """
import ctypes, os, signal, sys
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""


class StoppedError(Exception):
    """The child was stopped because the flow is."""


class TimeIsOverError(Exception):
    """The child was stopped at its time limit."""


class _Child:
    """A process group, by its first process."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.ended = threading.Event()
        self.timed_out = False

    def stop(self) -> None:
        """Interrupt the group, and kill it if that does not end it."""
        for how in (signal.SIGINT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            if self.ended.wait(GRACE):
                return

    def end(self) -> None:
        """Stop the group from the thread that waits for it."""
        for how in (signal.SIGINT, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, how)
                self.process.wait(GRACE)

    def time_is_over(self) -> None:
        self.timed_out = True
        self.stop()


class ChildProcesses:
    """The child processes of a flow run, and those of the flow runs below it."""

    def __init__(self) -> None:
        self.children: set[_Child] = set()
        self.below: list[ChildProcesses] = []
        self.stopping = threading.Event()

    def stop(self) -> list[threading.Thread]:
        """Begin to stop all children; return the threads that do it."""
        self.stopping.set()
        stops = [threading.Thread(target=child.stop) for child in list(self.children)]
        for stop in stops:
            stop.start()
        return [*stops, *(stop for other in list(self.below) for stop in other.stop())]


_first = ChildProcesses()
_current: ContextVar[ChildProcesses] = ContextVar("child_processes", default=_first)


@contextmanager
def child_processes() -> Iterator[ChildProcesses]:
    """Collect the children of this thread and of the tasks it starts, below those of the present run."""
    above, own = _current.get(), ChildProcesses()
    above.below.append(own)
    if above.stopping.is_set():
        own.stopping.set()
    token = _current.set(own)
    try:
        yield own
    finally:
        _current.reset(token)
        above.below.remove(own)


def run(
    command: list[str],
    log: Callable[[str], None],
    *,
    cwd: Path,
    env: dict[str, str],
    seconds: float | None = None,
) -> int:
    """Run a command to its end and return its exit status.

    Args:
        command: The program's path and its arguments.
        log: Called with each line it prints.
        cwd: The folder it runs in.
        env: Its environment.
        seconds: How long it may take; None for no limit.

    Raises:
        StoppedError: `stop_all` was called.
        TimeIsOverError: It took longer than `seconds`.
    """
    present = _current.get()
    if present.stopping.is_set():
        raise StoppedError
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", FOLLOW, str(os.getpid()), *command],
        cwd=cwd,
        env=env,
        encoding="utf-8",
        errors="replace",  # a child may print any bytes
        process_group=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    child = _Child(process)
    present.children.add(child)
    timer = threading.Timer(seconds or 0, child.time_is_over)
    timer.daemon = True
    with process:
        if present.stopping.is_set():  # since this began
            threading.Thread(target=child.stop, daemon=True).start()
        if seconds is not None:
            timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                log(line.rstrip())
            status = process.wait()
        except BaseException:  # this very thread is interrupted, as a worker's flow is when it is cancelled
            child.end()
            raise
        finally:
            timer.cancel()
            child.ended.set()
            present.children.discard(child)
    if child.timed_out:
        raise TimeIsOverError
    if present.stopping.is_set():
        raise StoppedError
    return status


def stop_all() -> None:
    """End every child of this run and of those below it, and start no more; return when all have ended."""
    for stop in _current.get().stop():
        stop.join()


def stopping() -> bool:
    """Return whether this flow run was told to stop."""
    return _current.get().stopping.is_set()
