"""Where making pairs stops to scale: simulated from measured constants, to 10^8 pairs and 1000 workers.

Run `python -m benchmarks.couple_scaling`. What this machine can tell is measured first: what the driver
spends on a shard, how fast shards are packed and digests made. What it can't, a GPU and an object store, is
assumed (`Site`) and printed. Then each scenario is simulated shard by shard: the driver hands out one at a
time, a worker makes and puts it, and in the end the driver reads all notes, fetches all shards and digests
them for the index, the manifest and DVC.
"""

import hashlib
import heapq
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fewstep import randomness
from fewstep.pairs import PairStatistics
from fewstep.shards import Recipe, Store, counted, drawn, finish_shards, write_shard
from stages.workers.spread import spread

SHAPE, PER_SHARD = (3, 32, 32), 4096
SCENARIOS = [(10**6, 1), (10**6, 8), (10**6, 64), (10**8, 64), (10**8, 1000), (10**8, 4000)]


@dataclass(frozen=True)
class Measured:
    """Constants of this machine and this code."""

    dispatch: float
    """Seconds of the driver for a shard, between two workers' doing nothing."""
    pack_bytes: float
    """Bytes a second that one worker turns from pairs into a shard on disk."""
    note: float
    """Seconds to read a note."""
    counts: float
    """Seconds to read what was counted in a shard, and add it up."""
    digest_bytes: float
    """Bytes a second of sha256, and the same of md5, by one process."""
    md5_bytes: float
    shard_bytes: int
    """Of float16 data, the noise drawn."""


@dataclass(frozen=True)
class Site:
    """What is assumed: a GPU a worker, and a store of objects."""

    pair_seconds: float = 64 * 0.010 / 256  # 64 calls of 10 ms on 256 pairs
    link_bytes: float = 1e9  # of each machine, a second
    store_bytes: float = 50e9  # of all machines together
    request: float = 0.03
    model_bytes: float = 250e6
    start: float = 20.0  # of a worker, until its model has arrived


def rate(work: Callable[[], object], units: float, seconds: float = 1.0) -> float:
    """Return how many units a second `work` does."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        done += 1
    return done * units / (time.perf_counter() - began)


def nothing(*_: object) -> None:
    """Do it."""


def measure() -> Measured:
    torch.set_num_threads(1)
    noise = randomness.noises("couple", randomness.keys_of(0, 0, PER_SHARD), SHAPE)
    recipe = Recipe(
        samples=1000 * PER_SHARD,
        per_shard=PER_SHARD,
        facts={},
        dtypes={"data": "float16"},
        drawn={"noise": drawn("couple", 0, 0, SHAPE)},
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)

        def pack(number: int = 0) -> None:
            pairs = {"noise": noise, "data": noise.clone()}
            count = lambda fields: PairStatistics.of(fields, total=10**8).to_json()  # noqa: E731
            write_shard(store, recipe, number, lambda start, stop: pairs, count)

        pack()
        size = store.sizes()["shard-00000.tar"]
        packed = rate(pack, size)
        content = store.read("shard-00000.tar")
        notes = Recipe(samples=2000, per_shard=1, facts={})
        for number in range(notes.shards):
            write_shard(Store(folder).below("small"), notes, number, lambda a, b: {"x": torch.full((1,), a)})
        began = time.perf_counter()
        finish_shards(store.below("small"), notes)
        note = (time.perf_counter() - began) / notes.shards
        one = replace(recipe, samples=PER_SHARD)
        counts = 1 / rate(lambda: [PairStatistics.from_json(text) for text in counted(store, one)], 1)
    os.environ["FEWSTEP_WORKERS"] = "2"
    items = list(range(4000))
    moments = [time.perf_counter() for _ in spread(nothing, items, start_worker=nothing, facts=())]
    return Measured(
        dispatch=(moments[-1] - moments[100]) / (len(items) - 100),
        pack_bytes=packed,
        note=note,
        counts=counts,
        digest_bytes=rate(lambda: hashlib.sha256(content), size),
        md5_bytes=rate(lambda: hashlib.md5(content), size),
        shard_bytes=size,
    )


def simulate(pairs: int, workers: int, here: Measured, site: Site) -> dict[str, float]:
    """Return the seconds of each part, and how busy the driver is while shards are made."""
    shards = -(-pairs // PER_SHARD)
    make = PER_SHARD * site.pair_seconds + here.shard_bytes / here.pack_bytes
    put = site.request + here.shard_bytes / min(site.link_bytes, site.store_bytes / workers)
    arrive = site.start + site.model_bytes / min(site.link_bytes, site.store_bytes / workers)
    free = [arrive] * min(workers, shards)
    driver = busy = 0.0
    for _ in range(shards):
        asked = heapq.heappop(free)
        driver = max(driver, asked) + here.dispatch
        busy += here.dispatch
        heapq.heappush(free, driver + make + put)
    made, total = max(free), shards * here.shard_bytes
    return {
        "ideal": pairs * site.pair_seconds / workers,
        "made": made,
        "notes": shards * (3 * max(here.note, site.request / 16) + max(here.counts, site.request / 16)),
        "fetched": total / site.link_bytes + total / here.digest_bytes,
        "digested": total / here.digest_bytes + total / here.md5_bytes,
        "driver": busy / made,
        "store": total / made / site.store_bytes,
        "terabytes": total / 1e12,
    }


def main() -> None:
    here, site = measure(), Site()
    for what in (here, site):
        print(type(what).__name__)
        for name, value in vars(what).items():
            print(f"  {name:12} {value:.4g}")
    print(
        f"{'pairs':>10} {'workers':>7} {'TB':>6} {'ideal':>8} {'made':>8} {'notes':>7} {'fetched':>8} "
        f"{'digested':>8} {'making':>7} {'driver':>7} {'store':>6}"
    )
    for pairs, workers in SCENARIOS:
        told = simulate(pairs, workers, here, site)
        print(
            f"{pairs:10} {workers:7} {told['terabytes']:6.3f} "
            + " ".join(
                f"{told[name] / 60:8.1f}" for name in ("ideal", "made", "notes", "fetched", "digested")
            )
            + f" {told['ideal'] / told['made']:7.2f} {told['driver']:7.4f} {told['store']:6.3f}"
        )


if __name__ == "__main__":
    main()
