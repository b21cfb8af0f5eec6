"""The memory and the time of a training step, with micro-batches, with recomputed blocks, and with both.

Run `python -m benchmarks.step_memory [micro-batch]` (16). Flow matching of 64 images of 3x32x32 in one batch,
a U-Net of width 64 with multipliers 1, 2 and 2, one thread. Each line is a process of its own, which tells
the most memory that it had beyond what it had before its first step, and the median time of five steps.
"""

import os
import resource
import subprocess
import sys
import time
from statistics import median

import torch

from fewstep import randomness
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.networks import Training

SHAPE, BATCH, STEPS = (3, 32, 32), 64, 5
UNET = {"name": "unet", "width": 64, "multipliers": [1, 2, 2], "blocks": 2}


def measure() -> None:
    """Print the memory in MiB and the seconds of a step as the environment asks for it."""
    torch.set_num_threads(1)
    model = build(ModelConfig(architecture=UNET, shape=SHAPE), seed=0)
    settings = TrainSettings(steps=STEPS, batch=BATCH)
    training = Training(FlowMatching(), model, lambda name: model, settings, 0, torch.device("cpu"))
    keys = randomness.keys_of(0, 0, BATCH)
    data = randomness.noises("benchmark", keys, SHAPE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(STEPS):
        began = time.process_time()
        training.take_step({"data": data}, keys)
        times.append(time.process_time() - began)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, median(times))


def main(micro: str) -> None:
    """Measure each way in a process."""
    ways = {
        "a whole batch": {},
        f"micro-batches of {micro}": {"FEWSTEP_MICRO_BATCH": micro},
        "recomputed blocks": {"FEWSTEP_RECOMPUTE": "on"},
        "both": {"FEWSTEP_MICRO_BATCH": micro, "FEWSTEP_RECOMPUTE": "on"},
    }
    print("| step | memory, MiB | of a whole batch | seconds | of a whole batch |")
    print("|---|---|---|---|---|")
    first: list[float] = []
    for name, variables in ways.items():
        command = [sys.executable, "-c", "from benchmarks import step_memory; step_memory.measure()"]
        out = subprocess.check_output(command, text=True, env=os.environ | variables)
        memory, seconds = map(float, out.split())
        first = first or [memory, seconds]
        shares = f"{memory / first[0]:.2f} | {seconds:.2f} | {seconds / first[1]:.2f}"
        print(f"| {name} | {memory:.0f} | {shares} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "16")
