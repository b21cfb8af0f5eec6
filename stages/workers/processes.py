"""Workers that are processes of this machine, one for each place."""

import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from stages.process.parent import follow_parent
from stages.workers.sharing import Answer, DiedError, answer


class Process:
    """A process that does what comes down its pipe."""

    def __init__(self, place: str) -> None:
        """Start it; its networks run on the device `place`."""
        context = get_context("spawn")  # a forked torch may hang
        self.place = place
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, place), daemon=True)
        self.process.start()
        theirs.close()  # so that ours ends when the process does

    def give(self, work: Callable[..., Any], facts: tuple[Any, ...]) -> None:
        """See Worker.give."""
        with suppress(ConnectionError):  # it is dead, as `take` will find
            self.pipe.send((work, facts))

    def take(self) -> Answer:
        """See Worker.take."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):  # no more, or half of an answer
            self.process.join()
            code = self.process.exitcode or 0
            raise DiedError(signal.Signals(-code).name if code < 0 else f"exit code {code}") from None

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Processes:
    """A pool of processes."""

    def __init__(self, places: list[str]) -> None:
        """`places` are the devices of the workers, and so how many there are."""
        self.free = places[::-1]
        self.workers: set[Process] = set()

    def acquire(self, most: int) -> Collection[Process]:
        """See WorkerPool.acquire."""
        new = [Process(self.free.pop()) for _ in range(min(most, len(self.free)))]
        self.workers.update(new)
        return new

    def heard(self, busy: Collection[Process]) -> Collection[Process]:
        """See WorkerPool.heard."""
        ready = wait([worker.pipe for worker in busy])
        return [worker for worker in busy if worker.pipe in ready]

    def dismiss(self, worker: Process) -> None:
        """See WorkerPool.dismiss."""
        worker.end()
        self.workers.remove(worker)
        self.free.append(worker.place)

    def close(self) -> None:
        """See WorkerPool.close."""
        for worker in self.workers:
            worker.end()


def serve(pipe: Connection, place: str) -> None:
    """Do in a worker what comes down the pipe; it ends when the stage does."""
    follow_parent()
    os.environ["FEWSTEP_DEVICE"] = place
    while True:
        try:
            work, facts = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(work, facts))
