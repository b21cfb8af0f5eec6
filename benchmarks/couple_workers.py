"""Two workers against two bare loops of the same network calls, all at the same time.

Run `python -m benchmarks.couple_workers [pairs]` (8192). A loop calls the demo's teacher, 64 calls of 128 at
once for each batch of pairs, on one thread; fewstep's workers, processes or actors of a local Ray cluster,
also draw noise, step and write shards. Of both, the time counts in which the work is done, from the moment
that all are ready; loops and workers take turns, and the median of three rounds counts.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks._coupling import UNET, maker, teacher
from fewstep.shards import Recipe, Store
from stages.sampling import splits
from stages.workers.spread import spread

NFES, BATCH, PER_SHARD, ROUNDS = 64, 128, 512, 3


@torch.no_grad()
def bare(model: str, pairs: int) -> None:
    """Say when ready, wait for a line, and make the calls that some pairs need."""
    torch.set_num_threads(1)
    flow = maker(Path(model), nfe=NFES).open().flow
    noise = torch.randn(BATCH, 1, 8, 8)
    flow(noise, 0.5)
    print("ready", flush=True)
    sys.stdin.readline()
    for call in range(NFES * pairs // BATCH):
        flow(noise, call % NFES / NFES)
    print("done", flush=True)


def seconds_of_loops(model: Path, pairs: int) -> float:
    command = [sys.executable, "-m", "benchmarks.couple_workers", "bare", str(model), str(pairs // 2)]
    loops = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]

    def wait_for_lines() -> None:
        for loop in loops:
            assert loop.stdout
            loop.stdout.readline()

    wait_for_lines()
    began = time.perf_counter()
    for loop in loops:
        assert loop.stdin
        loop.stdin.write("go\n")
        loop.stdin.flush()
    wait_for_lines()
    spent = time.perf_counter() - began
    for loop in loops:
        loop.wait()
    return spent


def seconds_of_workers(model: Path, pairs: int, folder: Path) -> float:
    """Return the time from the first shard of either worker to the last, scaled to all shards.

    Workers don't wait for each other: a first shard each, which tells that they are ready, is not counted.
    """
    recipe = Recipe(samples=pairs + 2 * PER_SHARD, per_shard=PER_SHARD, facts={"first": 0})
    facts = (Store(folder).url, maker(model, nfe=NFES), {"train": recipe})
    items = [("train", number) for number in range(recipe.shards)]
    ends = []
    for _ in spread(splits.make_one, items, start_worker=splits.start_worker, facts=facts):
        ends.append(time.perf_counter())
    return (ends[-1] - ends[1]) * (pairs // PER_SHARD) / (len(ends) - 2)


def main(pairs: int) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "FEWSTEP_THREADS": "1", "FEWSTEP_WORKERS": "2"}
    spent: dict[str, list[float]] = {"loops": [], "processes": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        model = teacher(Path(folder) / "model", UNET, (1, 8, 8))
        for turn in range(ROUNDS):
            spent["loops"].append(seconds_of_loops(model, pairs))
            for backend in ("processes", "ray"):
                os.environ["FEWSTEP_BACKEND"] = backend
                place = Path(folder) / f"{backend}-{turn}"
                spent[backend].append(seconds_of_workers(model, pairs, place))
    for name, times in spent.items():
        print(f"{name:10} {pairs / median(times):7.1f} pairs/s", flush=True)
    for name in ("processes", "ray"):
        print(f"ratio {name:10} {median(spent['loops']) / median(spent[name]):.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        bare(sys.argv[2], int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 8192)
