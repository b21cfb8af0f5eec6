"""The memory of a distillation of three networks: all weights trained, and an adapter over one base.

Run `python -m benchmarks.lora_memory [rank]` (16). Distribution matching distillation of images of 3x16x16 in
batches of 2, a U-Net of 100 million weights, one thread. Each line is a process of its own. It tells the
weights of teacher, student and fake network, each counted once; all that the training holds, with the
student's average, gradients and moments; what the process has more than before, after a step; the seconds of
a step; and all memory as a multiple of one copy of the weights.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from statistics import median

import psutil
import torch
from torch import Tensor

from fewstep import grids, randomness
from fewstep.grids import Grid
from fewstep.lora import with_lora
from fewstep.lora_settings import LoraSettings
from fewstep.methods.dmd import Dmd
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.networks import Training

SHAPE, BATCH, STEPS = (3, 16, 16), 2, 3
UNET = {"name": "unet", "width": 208, "multipliers": [1, 2, 3], "blocks": 3}
NETWORKS = ("teacher", "student", "fake")


def teacher(grid: Grid | None = None) -> Model:
    """Return the model that all three networks start from."""
    return build(ModelConfig(architecture=UNET, shape=SHAPE, grid=grid), seed=0)


def size(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors, those with one memory counted once."""
    return sum({t.data_ptr(): t.nbytes for t in tensors}.values())


def resident() -> int:
    """Return the bytes of memory that the process has now."""
    return psutil.Process().memory_info().rss


def measure(rank: int) -> None:
    """Print bytes of one copy, of three networks, of the training and of the process, and seconds a step."""
    torch.set_num_threads(1)
    small = build(ModelConfig(architecture={"name": "mlp"}, shape=(2,)), seed=0)
    with_lora(small, LoraSettings(), seed=0)  # loads the libraries
    before = resident()
    student = teacher(grids.uniform(2))
    one = size(student.parameters())
    if rank:
        student = with_lora(student, LoraSettings(rank=rank), seed=0)
    settings = TrainSettings(steps=STEPS, batch=BATCH)
    training = Training(Dmd(fake_warmup=0), student, lambda name: teacher(), settings, 0, torch.device("cpu"))
    del student
    keys, times = randomness.keys_of(0, 0, BATCH), []
    for _ in range(STEPS):
        began = time.process_time()
        training.take_step({}, keys)
        times.append(time.process_time() - began)
    weights = [w for name in NETWORKS for w in training.modules[name].parameters()]
    gradients = [w.grad for w in weights if w.grad is not None]
    three, all_ = size(weights), size([*weights, *training.tensors().values(), *gradients])
    print(one, three, all_, resident() - before, median(times))


def main(rank: str) -> None:
    """Measure both ways in processes of their own."""
    print("| trained | one copy, MiB | three networks | of a copy | all | of a copy | process | s/step |")
    print("|---|---|---|---|---|---|---|---|")
    for name, asked in (("all weights", "0"), (f"an adapter of rank {rank}", rank)):
        command = [sys.executable, "-c", f"from benchmarks import lora_memory as b; b.measure({asked})"]
        large = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}  # so that memory that is free is given back
        out = subprocess.check_output(command, text=True, env=os.environ | large)
        one, three, all_, process, seconds = map(float, out.split())
        sizes = " | ".join(f"{part / 2**20:.0f} | {part / one:.2f}" for part in (three, all_))
        print(f"| {name} | {one / 2**20:.0f} | {sizes} | {process / 2**20:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "16")
