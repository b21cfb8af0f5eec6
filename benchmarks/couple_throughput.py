"""Making pairs in this process, against the bare network calls they need.

Run `python -m benchmarks.couple_throughput [seconds]`. Both sides call the demo's teacher on as many
batches of 128, one thread; fewstep also draws noise, steps along the grid, and writes shards with their
digests to disk. They take turns, a shard's worth of calls each, until each has had its seconds (60).
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks._coupling import UNET, maker, teacher
from fewstep.shards import Recipe, Store, write_shard

SHAPE, NFES, BATCH, PAIRS = (1, 8, 8), 64, 128, 1024
FACTS = {"about": "a benchmark"}


@torch.no_grad()
def main(seconds: float) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made_by = maker(teacher(Path(folder) / "model", UNET, SHAPE), nfe=NFES, batch=BATCH)
        opened, store = made_by.open(), Store(Path(folder) / "shards")
        recipe = Recipe(samples=1000 * PAIRS, per_shard=PAIRS, facts=FACTS)
        noise = torch.randn(BATCH, *SHAPE)
        opened.make(0, BATCH)  # warm
        spent, turns = {"bare": 0.0, "ours": 0.0}, 0
        while min(spent.values()) < seconds:
            began = time.perf_counter()
            for call in range(NFES * PAIRS // BATCH):
                opened.flow(noise, call % NFES / NFES)
            spent["bare"] += time.perf_counter() - began
            began = time.perf_counter()
            write_shard(store, recipe, turns, opened.make, made_by.count)
            spent["ours"] += time.perf_counter() - began
            turns += 1
    for name, total in spent.items():
        print(f"{name}  {total:6.1f} s for {turns * PAIRS} pairs, {turns * PAIRS / total:6.1f} pairs/s")
    print(f"ratio {spent['bare'] / spent['ours']:.3f}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 60.0)
