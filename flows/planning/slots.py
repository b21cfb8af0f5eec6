"""Room for stages: how many are at work at once, and what is done with room that no stage needs.

A stage with a function `ahead` can do a part of its work before all its inputs are there, and its run finds
that part done. A free slot is lent to such work, and taken back as soon as a stage wants it.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path

from fewstep.secrets import scrub
from flows.planning import time_limits
from flows.system import processes
from stages.settings import discovery


class Slots:
    """The slots of a process, whichever flow runs its stages belong to."""

    def __init__(self, number: int) -> None:
        self.free = number
        self.wanted = 0
        self.lent: WorkAhead | None = None
        self.changed = threading.Condition()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for a slot, and hold it while a stage works."""
        with self.changed:
            self.wanted += 1
            if self.lent and not self.free:
                self.lent.stop()
            self.changed.wait_for(lambda: self.free)
            self.wanted -= 1
            self.free -= 1
        try:
            yield
        finally:
            self.give_back()

    def lend(self, work: "WorkAhead") -> bool:
        """Take a slot for work ahead if one is free; return whether."""
        with self.changed:
            if self.lent or self.wanted or not self.free:
                return False
            self.lent, self.free = work, self.free - 1
            return True

    def give_back(self, work: "WorkAhead | None" = None) -> None:
        """Give a slot back: that of `work`, or of a stage."""
        with self.changed:
            self.lent, self.free = None if work else self.lent, self.free + 1
            self.changed.notify_all()


slots = Slots(time_limits.stages_at_once())


class WorkAhead:
    """What stages of a run that wait can do already, in a process with one worker."""

    def __init__(self, stages: Iterable[str], root: Path, log: Callable[[str], None]) -> None:
        """`log` is called with each line that they print; they run in the folder `root`."""
        self.stages, self.root, self.log = [name for name in stages if able(name)], root, log
        self.new = self.stopped = False
        self.child_processes: processes.ChildProcesses | None = None

    def begun(self, stage: str) -> None:
        """Note that a stage has begun, so that none of its work is done ahead any more."""
        if stage in self.stages:
            self.stages = [name for name in self.stages if name != stage]
            self.stop()

    def finished(self) -> None:
        """Note that a stage is done, so that more may be possible."""
        self.new = True

    def go_on(self) -> None:
        """Begin, if something is new and a slot is free."""
        if not (self.new and self.stages):
            return
        self.stopped = False  # before others see it, who may stop it at once
        if slots.lend(self):
            self.new = False
            threading.Thread(target=copy_context().run, args=[self._work], daemon=True).start()

    def stop(self) -> None:
        """Have the process end; its slot is given back soon."""
        self.stopped = True
        if running := self.child_processes:  # another thread may end it meanwhile
            running.stop()

    def _work(self) -> None:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "FEWSTEP_WORKERS": "1"}
        try:
            with processes.child_processes() as self.child_processes, suppress(processes.StoppedError):
                for stage in [] if self.stopped else self.stages:
                    command = [sys.executable, "-m", f"stages.{stage}", "--ahead"]
                    processes.run(command, self._hear, cwd=self.root, env=environment)
        finally:
            self.child_processes = None
            slots.give_back(self)

    def _hear(self, line: str) -> None:
        if line and not self.stopped:
            self.log(scrub(line))


def able(stage: str) -> bool:
    """Return whether a stage can do something before all its inputs are there."""
    return stage in discovery.names() and hasattr(discovery.load(stage), "ahead")
