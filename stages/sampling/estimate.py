"""What making samples will take on this machine: time, bytes, and what that costs."""

import heapq
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep import solvers
from fewstep.command_progress import clock
from fewstep.draws import draws_of
from fewstep.fitting import Fitting
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.reference import follow
from fewstep.shards.recipe import FLOATS, Recipe
from stages.process.device import device
from stages.sampling.fastest_batch import fastest_batch
from stages.sampling.splits import TRAIN, ModelMaker, Opened, Splits
from stages.workers.spread import here, spread, workers_for

LEAST_SECONDS, LEAST_NFE = 0.5, 3  # of a measurement; the seconds, unless the work has fewer calls
CHECKING = 2.2  # pairs that cost as many NFE as checking one: back, forth and a few in between
WORKER: dict[str, Any] = {}  # what a worker keeps until it measures


@dataclass(frozen=True)
class WorkLeft:
    """The samples that are left to make, and how long a network call takes."""

    shards: list[int]
    """Samples in each shard that is not there yet."""
    total: int
    """Samples in all shards."""
    batch: int
    nfe: int
    """NFE of a sample."""
    checked: int
    """Samples that are followed back in the end."""
    call_seconds: list[float]
    """Of a call of a whole batch, in each worker, while the others work too."""
    start_seconds: float
    """Until the workers have the model open."""
    sample_bytes: int
    fastest: tuple[int, float] | None = None
    """A batch, and the seconds of a call on one of its samples, if it was looked for; see `fastest_batch`."""

    @property
    def seconds(self) -> float:
        """Time until all is made and checked, if a worker that is done with a shard takes the next."""
        free = [(self.start_seconds, seconds) for seconds in self.call_seconds]
        heapq.heapify(free)
        for samples in self.shards:
            then, seconds = heapq.heappop(free)
            heapq.heappush(free, (then + seconds * self.nfe * samples / self.batch, seconds))
        checks = self.checked / self.batch * CHECKING * self.nfe * min(self.call_seconds)
        return max(then for then, _ in free) + checks

    def lines(self, price: float | None = None) -> list[str]:
        """Return what a user wants to know; `price` is that of an hour of one worker."""
        left, count = sum(self.shards), len(self.call_seconds)
        milliseconds = 1000 * sum(self.call_seconds) / count
        cost = count * self.seconds / 3600 * (price or 0)
        return [
            f"{self.total:,} x {self.nfe} NFE, {self.batch} at once; {left:,} are left to make",
            f"a call takes {milliseconds:.3g} ms on each of {count} workers ({device()}), measured just now",
            f"time   {clock(self.seconds)}",
            f"bytes  {self.total * self.sample_bytes:,}",
            *([self.advice()] if self.fastest and self.fastest[0] != self.batch else []),
            *([f"cost   {cost:.2f} at {price:g} an hour of a worker"] if price is not None else []),
        ]

    def advice(self) -> str:
        """Return what another batch would save."""
        assert self.fastest is not None
        batch, seconds = self.fastest
        share = seconds * self.batch * len(self.call_seconds) / sum(self.call_seconds)
        return f"batch  {batch} would take {share:.2f} of the time; it changes results by rounding"

    def line(self) -> str:
        """Return the same in a line."""
        left, count = sum(self.shards), len(self.call_seconds)
        return (
            f"{left:,} of {self.total:,} to make x {self.nfe} NFE on {count} workers: about "
            f"{clock(self.seconds)}, {self.total * self.sample_bytes:,} bytes in all"
        )


@dataclass(frozen=True)
class CallCosts:
    """What one worker found."""

    call_seconds: float
    nfe: int
    """A sample."""
    sample_bytes: int
    spent: float
    """Seconds that finding it took."""
    fastest: tuple[int, float] | None


def estimate(
    splits: Splits, maker: ModelMaker, *, checked: int, opened: Opened | None = None, alone: bool = False
) -> WorkLeft:
    """Measure some network calls and return what the work will take.

    Args:
        splits: What is to be made.
        maker: How.
        checked: Samples that are followed back in the end.
        opened: A model that is open here already, to measure in this process for all workers; else it
            is measured in as many workers as there will be, at the same time.
        alone: Whether this process does all the work, as in `Splits.take`.
    """
    shards = [len(splits.recipes[split].part(number)) for split, number in splits.missing()]
    count, recipe = 1 if alone else max(1, workers_for(len(shards))), splits.recipes[TRAIN]
    began = time.perf_counter()
    if opened is None:
        facts = (maker if alone else splits.reachable(maker), recipe, sum(shards))
        answers = (here if alone else spread)(measure, range(count), start_worker=start_worker, facts=facts)
        measured = [found for _, found in answers]
    else:
        WORKER.update(maker=maker, opened=opened, recipe=recipe, samples=sum(shards), looks=False)
        measured = [measure(0)] * count
    spent = time.perf_counter() - began
    return WorkLeft(
        shards=shards,
        total=sum(recipe.samples for recipe in splits.recipes.values()),
        batch=maker.batch,
        nfe=measured[0].nfe,
        checked=checked,
        call_seconds=[found.call_seconds for found in measured],
        start_seconds=max(0.0, spent - max(found.spent for found in measured)),
        sample_bytes=measured[0].sample_bytes,
        fastest=measured[0].fastest,
    )


def start_worker(maker: ModelMaker, recipe: Recipe, samples: int) -> None:
    """Open the model in a worker, which will look for the fastest batch, too."""
    WORKER.update(maker=maker, opened=maker.open(), recipe=recipe, samples=samples, looks=True)


@torch.no_grad()
def measure(_worker: int) -> CallCosts:
    """Measure a worker, in it."""
    opened, recipe, batch = WORKER["opened"], WORKER["recipe"], WORKER["maker"].batch
    began = time.perf_counter()
    noise, conditions = drawn(opened, batch)
    nfe = nfe_of(opened, noise, conditions)
    seconds = seconds_of_call(opened.flow, noise, conditions, most=WORKER["samples"] / batch * nfe)
    network = opened.model.network
    assert isinstance(network, Fitting)
    looks = WORKER["looks"] and network.rows is None
    if looks:
        opened.model.network = network.network  # another batch fits, or it is none
    stored = [
        field.to(FLOATS[recipe.dtypes.get(name, "float32")]) if field.is_floating_point() else field
        for name, field in opened.make(0, 1).items()
        if name not in recipe.drawn
    ]
    return CallCosts(
        call_seconds=seconds,
        nfe=nfe,
        sample_bytes=sum(field.nbytes for field in stored),
        spent=time.perf_counter() - began,
        fastest=fastest_batch(seconds_of_sample, batch, recipe.per_shard) if looks else None,
    )


def drawn(opened: Opened, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what a batch of samples starts from."""
    (found,) = draws_of(opened.model, "estimate", 0, range(batch), batch=batch, device=device())
    return found


def seconds_of_sample(batch: int) -> float:
    """Return the seconds of a call on a batch of so many, in this worker, for each sample."""
    return seconds_of_call(WORKER["opened"].flow, *drawn(WORKER["opened"], batch)) / batch


def seconds_of_call(
    flow: Flow, noise: Tensor, conditions: dict[str, Tensor], *, most: float = math.inf
) -> float:
    """Return the seconds that a network call on a whole batch takes, measured over `most` calls or fewer."""
    middle, velocities = (flow.t_start + flow.t_end) / 2, 0
    enough = most / flow.nfe_per_velocity
    float(flow(noise, middle, **conditions).sum())  # warms up
    began = time.perf_counter()
    while velocities < LEAST_NFE or (velocities < enough and time.perf_counter() - began < LEAST_SECONDS):
        float(flow(noise, middle, **conditions).sum())  # waits for a GPU
        velocities += 1
    return (time.perf_counter() - began) / velocities / flow.nfe_per_velocity


def nfe_of(opened: Opened, noise: Tensor, conditions: dict[str, Tensor]) -> int:
    """Return the NFE of a sample; where the solver chooses the steps, it is measured on a batch."""
    if isinstance(opened.steps, Grid):
        velocities = solvers.velocities(opened.steps.solver, opened.steps.steps)
        return velocities * opened.flow.nfe_per_velocity
    return follow(opened.flow, noise, opened.steps, **conditions).nfe
