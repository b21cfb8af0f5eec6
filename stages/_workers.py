"""Independent pieces of a stage's work on several processes of this machine."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fewstep.errors import UserError
from stages._parent import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
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

    Args:
        work: A function of a module, called in the worker processes, or here if one is enough.
        items: What to do.
        prepare: Called once in each worker, with `facts`, before any work.
        facts: What every piece of work needs.
    """
    processes = min(workers(), len(items))
    if processes <= 1:
        yield from here(work, items, prepare=prepare, facts=facts)
        return
    context = get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(processes, context, initializer=begin, initargs=(prepare, facts)) as pool:
        waiting = {pool.submit(work, item): item for item in items}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def begin(prepare: Callable[..., None], facts: tuple[Any, ...]) -> None:
    """Start a worker, which ends when the stage does."""
    die_with_parent()
    prepare(*facts)


def workers() -> int:
    """Return how many processes to use: FEWSTEP_WORKERS, or one a core, or one beside a GPU.

    Raises:
        UserError: if FEWSTEP_WORKERS is no number from 1.
    """
    from stages._flows import device

    asked = os.environ.get("FEWSTEP_WORKERS")
    if asked is None:
        return cores() if device() == "cpu" else 1
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
