"""Training by one process, by two with all weights each, and by two that share them: memory and speed.

Gradients of two are exchanged in pieces while others are computed, and once more in one piece, at the end.

Run `python -m benchmarks.devices [millions of parameters] [batch]` (100, 16). A fully connected network of
eight blocks learns by flow matching, one thread a process, gloo. Memory is the most that a process had,
without what it had before the network was made, and malloc gives back what is freed; a step is the median
of five. Speeds mean something where two cores are free.
"""

import os
import resource
import sys
import time
from multiprocessing.queues import SimpleQueue
from statistics import median

import torch
import torch.multiprocessing as mp

from fewstep import distributed, randomness
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.networks import Training

SHAPE, DEPTH, STEPS, PORT = (64,), 8, 5, "29541"


def peak() -> float:
    """Return the most memory that this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def none(name: str) -> Model:
    """Load no other model: this method has none."""
    raise KeyError(name)


def work(
    rank: int, variables: dict[str, str], piece: int, millions: float, batch: int, told: SimpleQueue
) -> None:
    """Train as one of the processes; the first tells memory and time."""
    os.environ.update(variables, RANK=str(rank), MASTER_ADDR="localhost", MASTER_PORT=PORT)
    torch.set_num_threads(1)
    distributed.BUCKET = piece
    distributed.join()
    before, share = peak(), batch // distributed.ranks()
    width = round((millions * 1e6 / (4 * DEPTH)) ** 0.5)
    config = ModelConfig(architecture={"name": "mlp", "width": width, "depth": DEPTH}, shape=SHAPE)
    settings = TrainSettings(steps=STEPS, batch=batch)
    training = Training(FlowMatching(), build(config, seed=0), none, settings, 0, torch.device("cpu"))
    keys = randomness.keys_of(0, rank * share, (rank + 1) * share)
    data, times = randomness.noises("benchmark", keys, SHAPE), []
    for _ in range(STEPS):
        began = time.perf_counter()
        training.take_step({"data": data}, keys)
        times.append(time.perf_counter() - began)
    if rank == 0:
        told.put((peak() - before, median(times)))
    distributed.leave()


def main(millions: float, batch: int) -> None:
    """Measure each way."""
    ways = {
        "one process": ({"WORLD_SIZE": "1"}, distributed.BUCKET),
        "two, all weights each": ({"WORLD_SIZE": "2"}, distributed.BUCKET),
        "two, exchanged at the end": ({"WORLD_SIZE": "2"}, 2**62),
        "two, sharded": ({"WORLD_SIZE": "2", "FEWSTEP_SHARD": "on"}, distributed.BUCKET),
    }
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    first: list[float] = []
    print("| processes | memory of each, MiB | of one | step, s | throughput over one |")
    print("|---|---|---|---|---|")
    for name, (variables, piece) in ways.items():
        told = mp.get_context("spawn").SimpleQueue()
        mp.spawn(work, (variables, piece, millions, batch, told), nprocs=int(variables["WORLD_SIZE"]))
        memory, seconds = told.get()
        first = first or [memory, seconds]
        shares = f"{memory / first[0]:.2f} | {seconds:.2f} | {first[1] / seconds:.2f}"
        print(f"| {name} | {memory:.0f} | {shares} |", flush=True)


if __name__ == "__main__":
    asked = sys.argv[1:]
    main(float(asked[0]) if asked else 100.0, int(asked[1]) if asked[1:] else 16)
