"""Items shared out among workers that may die: what one loses, another does.

A back end is a pool, which starts workers, waits for them and ends them. All else is here.
"""

import traceback
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

from fewstep.errors import UserError

LIMIT = 3  # workers that may die in a row of one item

Answer = tuple[Any, Exception | None, str]  # a result, or an exception and its traceback


class DiedError(Exception):
    """A worker is gone, and with it what it worked on; the text says how it ended."""


class RemoteError(Exception):
    """The cause of an exception that was raised in a worker; the text is its traceback there."""


class Worker(Protocol):
    """A process somewhere that does one thing at a time."""

    def give(self, work: Callable[..., Any], facts: tuple[Any, ...]) -> None:
        """Ask for `work(*facts)`."""

    def take(self) -> Answer:
        """Return what became of it.

        Raises:
            DiedError: if the worker did not live to tell.
        """


class WorkerPool(Protocol):
    """The workers of one back end."""

    def acquire(self, most: int) -> Collection[Any]:
        """Return up to `most` new workers; perhaps none, for now."""

    def heard(self, busy: Collection[Any]) -> Collection[Any]:
        """Wait a while for some of the busy workers to be done or dead, and return those."""

    def dismiss(self, worker: Any) -> None:
        """End a worker at once."""

    def close(self) -> None:
        """End all workers at once."""


class Crew:
    """Workers of one pool, which stay ready from one set of items to the next."""

    def __init__(
        self, pool: WorkerPool, *, start_worker: Callable[..., None], facts: tuple[Any, ...], most: int
    ) -> None:
        """Start no worker yet; the pool stays the caller's to close.

        Args:
            pool: Whose workers.
            start_worker: Called once in each worker, before any work.
            facts: What it is called with.
            most: Workers at a time.
        """
        self.pool, self.start_worker, self.facts, self.most = pool, start_worker, facts, most
        self.idle: list[Any] = []

    def share_out(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield each item with its result, as they finish; see `stages.workers.spread.spread`.

        Args:
            work: Called with an item.
            items: The longest first.

        Raises:
            UserError: if workers die of one item, or before they have any.
        """
        waiting, deaths = deque(range(len(items))), Counter[int | None]()
        tasks: dict[Any, int | None] = {}  # busy workers and the items they have; None while it starts
        done: list[tuple[Any, Any]] = []
        left = len(items)
        try:
            while left or done:
                for worker in self.pool.acquire(min(self.most, left) - len(tasks) - len(self.idle)):
                    worker.give(self.start_worker, self.facts)
                    tasks[worker] = None
                while self.idle and waiting:
                    worker, first = self.idle.pop(), waiting.popleft()
                    worker.give(work, (items[first],))
                    tasks[worker] = first
                yield from done  # while the workers work
                done = []
                for worker in self.pool.heard(tasks) if left else ():
                    task = tasks.pop(worker)
                    try:
                        result, error, trace = worker.take()
                    except DiedError as death:
                        self.pool.dismiss(worker)
                        deaths[task] += 1
                        on_death(death, "" if task is None else named(items[task]), deaths[task])
                        if task is not None:
                            waiting.appendleft(task)
                        continue
                    self.idle.append(worker)
                    if error:
                        raise error from RemoteError(trace)
                    deaths[task] = 0
                    if task is not None:
                        left -= 1
                        done.append((items[task], result))
        finally:
            for worker in tasks:  # nobody waits for what they do
                self.pool.dismiss(worker)


def on_death(death: DiedError, item: str, deaths: int) -> None:
    """Print that a worker died, with its item if it had one.

    Raises:
        UserError: if it is one too many.
    """
    when = f"at work on {item}" if item else "getting ready"
    print(f"a worker died {when} ({death})", flush=True)
    if deaths == LIMIT:
        raise UserError(
            f"{LIMIT} workers in a row died {when} ({death}). Memory may have run out: `dmesg` shows whether "
            "the kernel killed them. If so, set FEWSTEP_WORKERS to a lower number"
        ) from death


def named(item: Any) -> str:
    """Return what a message calls an item."""
    return str(getattr(item, "name", item))


def answer(work: Callable[..., Any], facts: tuple[Any, ...]) -> Answer:
    """Do `work(*facts)` in a worker, and hand an exception on to the stage."""
    try:
        return work(*facts), None, ""
    except Exception as error:
        return None, error, traceback.format_exc()
