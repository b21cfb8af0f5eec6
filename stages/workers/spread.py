"""Independent pieces of a stage's work: here, on processes of this machine, or on a Ray cluster.

The environment chooses, FEWSTEP_BACKEND and FEWSTEP_WORKERS, and the result is the same.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fewstep.errors import UserError
from fewstep.registry import unknown
from stages.workers.sharing import WorkerPool, share_out

Item = TypeVar("Item")
Result = TypeVar("Result")
BACKENDS = ["processes", "ray"]
CGROUPS = Path("/sys/fs/cgroup")


class Spread(Protocol):
    """Who does pieces of work: `spread` or `here`."""

    def __call__(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        prepare: Callable[..., None],
        facts: tuple[Any, ...],
    ) -> Iterator[tuple[Item, Result]]:
        """See spread."""


def here(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    prepare: Callable[..., None],
    facts: tuple[Any, ...],
) -> Iterator[tuple[Item, Result]]:
    """Do in this process what `spread` would have others do."""
    prepare(*facts)
    yield from ((item, work(item)) for item in items)


def spread(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    prepare: Callable[..., None],
    facts: tuple[Any, ...],
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what `work` makes of it, as they finish; give the longest first.

    What a worker was at when it died is done again by another, so `work` may be called twice for an item.

    Args:
        work: A function of a module, called in the workers, or here if one is enough.
        items: What to do.
        prepare: Called once in each worker, with `facts`, before any work.
        facts: What every piece of work needs.

    Raises:
        UserError: if workers can't be had, or die again and again.
    """
    if not items:
        return
    if backend() == "ray":
        from stages.workers.ray_actors import Actors

        pool: WorkerPool = Actors()
        most = workers(default=len(items))
    elif min(len(found := places()), len(items)) > 1:
        from stages.workers.processes import Processes

        pool, most = Processes(found), len(found)
    else:
        yield from here(work, items, prepare=prepare, facts=facts)
        return
    try:
        yield from share_out(pool, work, items, prepare=prepare, facts=facts, most=most)
    finally:
        pool.close()


def workers_for(items: int) -> int:
    """Return how many workers `spread` gives so many items to, as things are now."""
    if backend() == "ray":
        from stages.workers.ray_actors import room

        return min(items, workers(default=room()))
    return min(items, len(places()))


def backend() -> str:
    """Return who works: FEWSTEP_BACKEND, or processes.

    Raises:
        UserError: if there is no such back end.
    """
    name = os.environ.get("FEWSTEP_BACKEND", "processes")
    if name not in BACKENDS:
        raise UserError(f"FEWSTEP_BACKEND: {unknown('back end', name, BACKENDS)}")
    return name


def places() -> list[str]:
    """Return the devices of the processes to start: one a core, one a GPU, or FEWSTEP_WORKERS over these."""
    import torch

    from stages.process.device import device

    where = device()
    every = [f"cuda:{gpu}" for gpu in range(torch.cuda.device_count())] if where == "cuda" else [where]
    count = workers(default=cores() if where == "cpu" else len(every))
    return [every[number % len(every)] for number in range(count)]


def workers(*, default: int) -> int:
    """Return how many workers to use: FEWSTEP_WORKERS, or `default`.

    Raises:
        UserError: if FEWSTEP_WORKERS is no number from 1.
    """
    asked = os.environ.get("FEWSTEP_WORKERS")
    if asked is None:
        return default
    if not (asked.isdecimal() and int(asked)):
        raise UserError(f"FEWSTEP_WORKERS must be a number of processes from 1, got {asked!r}")
    return int(asked)


def cores() -> int:
    """Return how many cores this process may use; a container may be allowed less than it sees."""
    # macOS knows no affinity
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(seen, quota(CGROUPS))))


def quota(cgroups: Path) -> float:
    """Return the number of cores that a container's control groups allow, of either version of Linux's."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            time, period = " ".join((cgroups / file).read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        if time not in ("max", "-1"):
            return int(time) / int(period)
    return math.inf
