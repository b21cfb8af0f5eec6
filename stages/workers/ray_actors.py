"""Workers that are actors of a Ray cluster, one a GPU, or one a core where the stage runs on none.

The cluster is asked for room again and again, so a node that joins later gets its share, and what a lost
one had goes to others. Ray itself retries nothing.
"""

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from fewstep.errors import UserError
from stages.process.device import device
from stages.workers.ray_actor import Actor, arrive, code
from stages.workers.ray_cluster import connect, ray
from stages.workers.sharing import Answer, DiedError

LOOK = 2.0  # seconds between two looks for room
WAIT_SECONDS = 60.0  # seconds without any worker


class RayWorker:
    """An actor as the stage sees it."""

    def __init__(self, actor: Any) -> None:
        """Ask it to arrive; Ray may not have placed it yet."""
        self.actor = actor
        self.give(arrive, (os.getcwd(), code()))

    def give(self, work: Callable[..., Any], facts: tuple[Any, ...]) -> None:
        """See Worker.give of the interface."""
        self.ref = self.actor.do.remote(work, facts)

    def take(self) -> Answer:
        """See Worker.take of the interface."""
        try:
            return ray.get(self.ref)
        except ray.exceptions.RayTaskError:  # no death: work or facts can't be read there
            raise
        except ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):
                raise UserError(
                    "a worker of the Ray cluster can't import this project: run `ray start` in its folder, "
                    f"which every machine needs, with the same packages ({str(error).splitlines()[-1]})"
                ) from None
            raise DiedError(type(error).__name__) from None


class Actors:
    """A pool of actors."""

    def __init__(self) -> None:
        """Connect to the cluster of RAY_ADDRESS, or start one here.

        Raises:
            UserError: if it can't be reached.
        """
        connect()
        self.kind = kind()
        needs = {"num_cpus": 1} if self.kind == "CPU" else {"num_cpus": 0, "num_gpus": 1}
        self.actors = ray.remote(Actor).options(**needs)
        self.coming: dict[Any, RayWorker] = {}  # by what tells that they arrived
        self.next_look = 0.0
        self.last_seen = time.monotonic()

    def acquire(self, most: int) -> Collection[RayWorker]:
        """See WorkerPool.acquire.

        Raises:
            UserError: if the cluster has had no room for a single worker for long.
        """
        arrived = []
        for ref in self._ready(self.coming, timeout=0):
            with suppress(DiedError):
                _, error, _ = (worker := self.coming.pop(ref)).take()
                if error:
                    raise error
                arrived.append(worker)
        now = time.monotonic()
        if arrived:
            self.last_seen = now
        elif now - self.last_seen > WAIT_SECONDS:
            total, free = (
                told.get(self.kind, 0) for told in (ray.cluster_resources(), ray.available_resources())
            )
            raise UserError(
                f"no worker could start on the Ray cluster in {WAIT_SECONDS:g} s: each needs 1 {self.kind}, "
                f"and of {total:g} there {free:g} are free. Let a machine join (`ray start --address=...`), "
                "or wait until others are done"
            )
        if not self.coming and now >= self.next_look:
            self.next_look = now + LOOK
            room = int(ray.available_resources().get(self.kind, 0))
            new = [RayWorker(self.actors.remote()) for _ in range(min(room, most - len(arrived)))]
            self.coming = {worker.ref: worker for worker in new}
        return arrived

    def heard(self, busy: Collection[RayWorker]) -> Collection[RayWorker]:
        """See WorkerPool.heard."""
        working = {worker.ref: worker for worker in busy}
        if working:
            self.last_seen = time.monotonic()
        ready = self._ready({**working, **self.coming}, timeout=LOOK)
        return [working[ref] for ref in ready if ref in working]

    def dismiss(self, worker: RayWorker) -> None:
        """See WorkerPool.dismiss."""
        ray.kill(worker.actor)

    def close(self) -> None:
        """See WorkerPool.close."""
        ray.shutdown()

    @staticmethod
    def _ready(refs: Collection[Any], timeout: float) -> list[Any]:
        """Wait for one of the answers to be there, or for `timeout` seconds."""
        if not refs:
            time.sleep(timeout)
            return []
        return ray.wait(list(refs), timeout=timeout)[0]


def kind() -> str:
    """Return what a worker needs one of."""
    return "CPU" if device() == "cpu" else "GPU"


def room() -> int:
    """Return how many workers the whole cluster has room for."""
    connect()
    try:
        return int(ray.cluster_resources().get(kind(), 0))
    finally:
        ray.shutdown()
