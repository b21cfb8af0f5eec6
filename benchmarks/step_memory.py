"""The memory and the time of a training step, with micro-batches, with recomputed blocks, and with both.

Run `python -m benchmarks.step_memory [micro-batch]` (16). Flow matching of 64 images of 3x32x32 in one batch,
a U-Net of width 64 with multipliers 1, 2 and 2, one thread. Each line is a process of its own, which tells
the most memory that it had beyond what it had when a small network had learnt, so that code is loaded, and
malloc gives back what is freed; and the median time of five steps. Beside it stands what `fewstep plan` says.
"""

import os
import resource
import subprocess
import sys
import time
from statistics import median

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training import footprint
from fewstep.training.method import Batch
from fewstep.training.networks import Training

SHAPE, BATCH, STEPS = (3, 32, 32), 64, 5
UNET = {"name": "unet", "width": 64, "multipliers": [1, 2, 2], "blocks": 2}


def ways(micro: str) -> dict[str, dict[str, str]]:
    """Return what the environment asks for in each way."""
    parts, again = {"FEWSTEP_MICRO_BATCH": micro}, {"FEWSTEP_RECOMPUTE": "on"}
    names = ("a whole batch", f"micro-batches of {micro}", "recomputed blocks", "both")
    return dict(zip(names, ({}, parts, again, parts | again), strict=True))


def begun(width: int = 64) -> Training:
    """Return a training that has not taken a step."""
    model = build(ModelConfig(architecture=UNET | {"width": width}, shape=SHAPE), seed=0)
    settings = TrainSettings(steps=STEPS, batch=BATCH)
    return Training(FlowMatching(), model, lambda name: model, settings, 0, torch.device("cpu"))


def batch(samples: int) -> tuple[Batch, Tensor]:
    """Return a batch and its keys."""
    keys = randomness.keys_of(0, 0, samples)
    return {"data": randomness.noises("benchmark", keys, SHAPE)}, keys


def most() -> float:
    """Return the most memory that this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure() -> None:
    """Print the memory in MiB and the seconds of a step as the environment asks for it."""
    torch.set_num_threads(1)
    begun(width=8).take_step(*batch(2))
    before, training, data, times = most(), begun(), batch(BATCH), []
    for _ in range(STEPS):
        began = time.process_time()
        training.take_step(*data)
        times.append(time.process_time() - began)
    print(most() - before, median(times))


def plan() -> None:
    """Print the memory in MiB that is expected of each way."""
    torch.set_num_threads(1)
    measured = footprint.measure(begun(), *batch(footprint.BATCH))
    for way in ways(sys.argv[1]).values():
        micro = int(way.get("FEWSTEP_MICRO_BATCH", BATCH))
        print(measured.footprint(footprint.Engaged(BATCH, micro, "FEWSTEP_RECOMPUTE" in way)).total / 2**20)


def main(micro: str) -> None:
    """Measure each way in a process."""
    print("| step | memory, MiB | of a whole batch | planned, MiB | seconds | of a whole batch |")
    print("|---|---|---|---|---|---|")
    first: list[float] = []
    planned = output("plan", micro).split()
    for (name, variables), expected in zip(ways(micro).items(), planned, strict=True):
        memory, seconds = map(float, output("measure", micro, **variables).split())
        first = first or [memory, seconds]
        print(
            f"| {name} | {memory:.0f} | {memory / first[0]:.2f} | {float(expected):.0f} "
            f"| {seconds:.2f} | {seconds / first[1]:.2f} |",
            flush=True,
        )


def output(function: str, micro: str, **variables: str) -> str:
    """Return what a function of this file prints in a process of its own."""
    command = [sys.executable, "-c", f"from benchmarks import step_memory; step_memory.{function}()", micro]
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.check_output(command, text=True, env=os.environ | own | variables)


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "16")
