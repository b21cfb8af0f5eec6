"""What making samples will take on this machine: time, bytes, and what that costs."""

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fewstep.draws import draws
from fewstep.shards.recipe import FLOATS
from stages._flows import device
from stages._making import Maker, Opened, Splits
from stages._progress import clock
from stages._workers import spread, workers

LEAST_SECONDS, LEAST_CALLS = 0.5, 3  # of a measurement, after a first call that warms up
WORKER: dict[str, Any] = {}  # what a worker keeps until it measures


@dataclass(frozen=True)
class Estimate:
    """The samples that are left to make, and how long a network call takes."""

    shards: list[int]
    """Samples in each shard that is not there yet."""
    total: int
    """Samples in all shards."""
    batch: int
    calls: int
    """Network calls a sample."""
    checking: int
    """Network calls, of a whole batch, after the last shard."""
    call_seconds: list[float]
    """Of a call of a whole batch, in each worker, while the others work too."""
    start_seconds: float
    """Until the workers have the model open."""
    sample_bytes: int

    @property
    def seconds(self) -> float:
        """Time until all is made and checked, if a worker that is done with a shard takes the next."""
        free = [(self.start_seconds, seconds) for seconds in self.call_seconds]
        heapq.heapify(free)
        for samples in self.shards:
            then, seconds = heapq.heappop(free)
            heapq.heappush(free, (then + seconds * self.calls * samples / self.batch, seconds))
        return max(then for then, _ in free) + self.checking * min(self.call_seconds)

    def lines(self, price: float | None) -> list[str]:
        """Return what a user wants to know; `price` is that of an hour of one worker."""
        left, count = sum(self.shards), len(self.call_seconds)
        milliseconds = 1000 * sum(self.call_seconds) / count
        cost = count * self.seconds / 3600 * (price or 0)
        return [
            f"{self.total:,} x {self.calls} calls, {self.batch} at once; {left:,} are left to make",
            f"a call takes {milliseconds:.3g} ms on each of {count} workers ({device()}), measured just now",
            f"time   {clock(self.seconds)}",
            f"bytes  {self.total * self.sample_bytes:,}",
            *([f"cost   {cost:.2f} at {price:g} an hour of a worker"] if price is not None else []),
        ]

    def line(self) -> str:
        """Return the same in a line."""
        left, count = sum(self.shards), len(self.call_seconds)
        return (
            f"{left:,} of {self.total:,} to make x {self.calls} calls on {count} workers: about "
            f"{clock(self.seconds)}, {self.total * self.sample_bytes:,} bytes in all"
        )


def estimate(splits: Splits, maker: Maker, *, checking: int, opened: Opened | None = None) -> Estimate:
    """Measure some calls and return what the work will take.

    Args:
        splits: What is to be made.
        maker: How.
        checking: Network calls of a whole batch that follow.
        opened: A model that is open here already, to measure in this process for all workers; else it
            is measured in as many workers as there will be, at the same time.
    """
    shards = [len(splits.recipes[split].part(number)) for split, number in splits.missing()]
    count, facts = max(1, min(workers(), len(shards))), (maker, splits.dtypes)
    began = time.perf_counter()
    if opened is None:
        measured = [found for _, found in spread(measure, range(count), prepare=prepare, facts=facts)]
    else:
        WORKER.update(maker=maker, opened=opened, dtypes=splits.dtypes)
        measured = [measure(0)] * count
    return Estimate(
        shards=shards,
        total=sum(recipe.samples for recipe in splits.recipes.values()),
        batch=maker.batch,
        calls=maker.calls,
        checking=checking,
        call_seconds=[seconds for seconds, _, _ in measured],
        start_seconds=max(0.0, time.perf_counter() - began - max(spent for _, spent, _ in measured)),
        sample_bytes=measured[0][2],
    )


def prepare(maker: Maker, dtypes: Mapping[str, str]) -> None:
    """Open the model in a worker."""
    WORKER.update(maker=maker, opened=maker.open(), dtypes=dtypes)


def measure(_worker: int) -> tuple[float, float, int]:
    """Return the seconds of a call, those of measuring, and the bytes of a sample; called in a worker."""
    began = time.perf_counter()
    seconds = time_calls(WORKER["opened"], WORKER["maker"].batch)
    fields = WORKER["opened"].make(0, 1)
    stored = [
        field.to(FLOATS[WORKER["dtypes"].get(name, "float32")]) if field.is_floating_point() else field
        for name, field in fields.items()
    ]
    return seconds, time.perf_counter() - began, sum(field.nbytes for field in stored)


@torch.no_grad()
def time_calls(opened: Opened, batch: int) -> float:
    """Return the seconds that the velocity of a whole batch takes, divided by its network calls."""
    flow, config = opened.flow, opened.model.config
    ((noise, conditions),) = draws(
        "estimate", 0, range(batch), shape=config.shape, classes=config.classes, batch=batch, device=device()
    )
    middle, calls = (flow.t_start + flow.t_end) / 2, 0
    ready = time.perf_counter()
    while calls <= LEAST_CALLS or time.perf_counter() - ready < LEAST_SECONDS:
        float(flow(noise, middle, **conditions).sum())  # waits for a GPU
        calls += 1
        if calls == 1:
            ready = time.perf_counter()
    return (time.perf_counter() - ready) / (calls - 1) / flow.calls_per_velocity
