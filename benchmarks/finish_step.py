"""A step of the finishes with three networks, against the bare network passes it needs.

Run `python -m benchmarks.finish_step [steps]`. Both sides pass batches of 128 through U-Nets of the demo's
size, one thread, for students of one call and of four; fewstep also draws noise and times, turns outputs
into scores, clips, updates both networks and averages weights. They take turns, a step each, until each
has had its steps (30). Times are those of the processor. Memory is what is kept for the backward pass,
at most, each tensor once.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks._coupling import UNET
from fewstep import grids, randomness
from fewstep.methods._online_score import OnlineScore
from fewstep.methods.dmd import Dmd
from fewstep.methods.sim import Sim
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.networks import Training

SHAPE, BATCH = (1, 8, 8), 128


def model(nfe: int) -> Model:
    return build(ModelConfig(architecture=UNET, shape=SHAPE, grid=grids.uniform(nfe)), seed=0)


def passes(method: OnlineScore, training: Training, noise: Tensor) -> None:
    """Forward and backward passes of one step, each network with gradients where it needs them."""
    student, fake, teacher = (training.modules[name] for name in ("student", "fake", "teacher"))
    assert isinstance(student, Model)
    assert student.config.grid is not None
    t, timesteps = torch.full((BATCH,), 0.5), student.config.grid.times[:-1]

    def samples() -> Tensor:
        x = noise
        for timestep in timesteps:
            x = x + student(x, torch.full((BATCH,), timestep)) / len(timesteps)
        return x

    training.trainees["student"].unlock(False)
    training.trainees["fake"].unlock(True)
    fake(samples(), t).square().mean().backward()
    training.trainees["student"].unlock(True)
    training.trainees["fake"].unlock(False)
    made = samples()
    with torch.set_grad_enabled(isinstance(method, Sim)):
        apart = fake(made, t) - teacher(made, t)
    (apart * made).mean().backward()


def kept(work: Callable[[], None]) -> int:
    """Return how many bytes are kept for the backward pass when there are most of them."""
    held: dict[int, int] = {}
    most = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal most
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        most = max(most, sum(held.values()))
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        held.clear()  # a backward pass has begun
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        work()
    return most


def measure(method: OnlineScore, nfe: int, steps: int) -> None:
    """Print what a step takes, the passes alone, and their ratio."""
    method = replace(method, fake_warmup=0)
    settings = TrainSettings(steps=2 * steps, batch=BATCH, betas=(0.0, 0.99), ema=0.99)
    training = Training(method, model(nfe), lambda name: model(nfe), settings, 0, torch.device("cpu"))
    noise = randomness.noises("benchmark", randomness.keys_of(0, 0, BATCH), SHAPE)

    def bare() -> None:
        passes(method, training, noise)

    def ours() -> None:
        training.take_step({}, randomness.keys_of(0, training.step * BATCH, (training.step + 1) * BATCH))

    memory = {work: kept(work) for work in (bare, ours)}
    spent = dict.fromkeys(memory, 0.0)
    for _ in range(steps):
        for work in spent:
            began = time.process_time()
            work()
            spent[work] += time.process_time() - began
    print(
        f"{type(method).__name__.lower():12} {nfe} nfe: {steps / spent[ours]:5.1f} steps/s, passes alone "
        f"{steps / spent[bare]:5.1f}; ratio {spent[bare] / spent[ours]:.3f}; kept "
        f"{memory[ours] / 2**20:.0f} MiB against {memory[bare] / 2**20:.0f}"
    )


def main(steps: int) -> None:
    torch.set_num_threads(1)
    for method in (Sim(), Dmd()):
        for nfe in (1, 4):
            measure(method, nfe, steps)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 30)
