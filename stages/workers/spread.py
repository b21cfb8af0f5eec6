"""Independent pieces of a stage's work: here, on processes of this machine, or on a Ray cluster.

The environment chooses, FEWSTEP_BACKEND and FEWSTEP_WORKERS, and the result is the same.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from fewstep.lazy import lazy_imports
from stages.workers.machine import backend, places, workers
from stages.workers.sharing import Crew, WorkerPool

with lazy_imports():
    from stages.workers import processes, ray_actors

Item = TypeVar("Item")
Result = TypeVar("Result")


class Spread(Protocol):
    """Who does pieces of work: `spread` or `here`."""

    def __call__(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        start_worker: Callable[..., None],
        facts: tuple[Any, ...],
    ) -> Iterator[tuple[Item, Result]]:
        """See spread."""


def here(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    start_worker: Callable[..., None],
    facts: tuple[Any, ...],
) -> Iterator[tuple[Item, Result]]:
    """Do in this process what `spread` would have others do."""
    start_worker(*facts)
    yield from ((item, work(item)) for item in items)


def spread(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    start_worker: Callable[..., None],
    facts: tuple[Any, ...],
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what `work` makes of it, as they finish; give the longest first.

    The task of a worker that dies is retried by another, so `work` may be called twice for an item.

    Args:
        work: A function of a module, called in the workers, or here if one is enough.
        items: What to do.
        start_worker: Called once in each worker, with `facts`, before any work.
        facts: What every piece of work needs.

    Raises:
        UserError: if workers can't be had, or die again and again.
    """
    if not items:
        return
    if backend() == "ray":
        pool: WorkerPool = ray_actors.Actors()
        most = workers(default=len(items))
    elif min(len(found := places()), len(items)) > 1:
        pool, most = processes.Processes(found), len(found)
    else:
        yield from here(work, items, start_worker=start_worker, facts=facts)
        return
    try:
        yield from Crew(pool, start_worker=start_worker, facts=facts, most=most).share_out(work, items)
    finally:
        pool.close()


def workers_for(items: int) -> int:
    """Return how many workers `spread` gives so many items to, as things are now."""
    if backend() == "ray":
        return min(items, workers(default=ray_actors.room()))
    return min(items, len(places()))
