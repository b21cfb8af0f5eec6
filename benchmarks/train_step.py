"""A step of fewstep's training, against a bare loop of the same network, optimiser and batch.

Run `python -m benchmarks.train_step [steps]`. Batches of 128 images of 1x8x8 through the U-Net of the
demo, one thread, with memory kept as stages do. Methods with one network are compared with `Bare`: forward,
backward, clip, AdamW and an average of the weights, on noise and times from torch's generator. Methods with
three are compared with the forwards and backwards that they need, and nothing else. As in the training loop,
a thread prepares the next batches. The two sides take turns, a step each (200), and to go first. Times are of
the processor in the thread that takes the steps, with what the other thread takes beside it, and of the
clock, with the share of it that steps wait for their batch. A ratio is the median of those of two steps, one
after the other, so that what else the machine does slows both. Memory is what is kept for the backward
pass, at most, each tensor once.
Flow matching is also compared with the bare loop under Accelerate, and under Lightning (its Fabric), where
these are installed.
The last lines compare flow matching with FEWSTEP_CHANNELS_LAST, and with FEWSTEP_COMPILE, with it alone.
"""

import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks._coupling import UNET
from fewstep import grids, randomness
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.reflow import Reflow
from fewstep.methods.sim import Sim
from fewstep.methods.straighten import Straighten
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.method import Batch, Method
from fewstep.training.networks import Training, Update
from fewstep.training.reader import Reader
from stages.process.environment import keep_freed_memory

SHAPE, BATCH, NFE = (1, 8, 8), 128, 4


def model(nfe: int = NFE) -> Model:
    return build(ModelConfig(architecture=UNET, shape=SHAPE, grid=grids.uniform(nfe)), seed=0)


class Bare:
    """The training loop that one would write without fewstep."""

    def __init__(self, lose: Callable[[nn.Module, Batch], Tensor]) -> None:
        self.lose, self.network = lose, model()
        self.average = copy.deepcopy(self.network)
        self.weights: list[Tensor] = [*self.network.parameters()]
        self.averaged: list[Tensor] = [*self.average.parameters()]
        self.optimiser = torch.optim.AdamW(self.weights, lr=1e-3, weight_decay=0.0, fused=True)

    def step(self, batch: Batch) -> None:
        """Update the network."""
        self.optimiser.zero_grad()
        self._backward(self.lose(self.network, batch))
        self._clip()
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.weights, 0.002)

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _clip(self) -> None:
        nn.utils.clip_grad_norm_(self.weights, 1.0)


class Accelerated(Bare):
    """The same loop under Accelerate."""

    def __init__(self, lose: Callable[[nn.Module, Batch], Tensor]) -> None:
        super().__init__(lose)
        self.accelerator = import_module("accelerate").Accelerator(cpu=True)
        self.network, self.optimiser = self.accelerator.prepare(self.network, self.optimiser)

    def _backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def _clip(self) -> None:
        self.accelerator.clip_grad_norm_(self.weights, 1.0)


class Fabric(Bare):
    """The same loop under Lightning's Fabric."""

    def __init__(self, lose: Callable[[nn.Module, Batch], Tensor]) -> None:
        super().__init__(lose)
        self.fabric = import_module("lightning.fabric").Fabric(accelerator="cpu", devices=1)
        self.network, self.optimiser = self.fabric.setup(self.network, self.optimiser)

    def _backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def _clip(self) -> None:
        self.fabric.clip_gradients(self.network, self.optimiser, max_norm=1.0)


def flow_matching(network: nn.Module, batch: Batch) -> Tensor:
    return reflow(network, batch | {"noise": torch.randn(BATCH, *SHAPE)})


def reflow(network: nn.Module, batch: Batch) -> Tensor:
    noise, data, t = batch["noise"], batch["data"], torch.rand(BATCH)
    x = torch.lerp(noise, data, t[:, None, None, None])
    return (network(x, t) - (data - noise)).square().mean()


def straighten(network: nn.Module, batch: Batch) -> Tensor:
    x, loss = batch["states"][:, 0], torch.zeros(())
    for number in range(NFE):
        wanted = batch["states"][:, number + 1]
        velocity = network(x, torch.full((BATCH,), number / NFE))
        loss = loss + (velocity - (wanted - x) * NFE).square().mean() / NFE
        x = x + velocity.detach() / NFE
    return loss


@dataclass
class Passes:
    """The forward and backward passes of a step with a fake network, with gradients where they are needed."""

    training: Training
    through_scores: bool
    """Whether the student's loss is differentiated through the teacher and the fake network."""

    def step(self, batch: Batch) -> None:
        """Pass through the networks, and update none."""
        student, fake, teacher = (self.training.modules[name] for name in ("student", "fake", "teacher"))
        assert isinstance(student, Model)
        assert student.config.grid is not None
        t, timesteps = torch.full((BATCH,), 0.5), student.config.grid.times[:-1]

        def samples() -> Tensor:
            x = batch["noise"]
            for timestep in timesteps:
                x = x + student(x, torch.full((BATCH,), timestep)) / len(timesteps)
            return x

        self.training.trainees["student"].unlock(False)
        self.training.trainees["fake"].unlock(True)
        fake(samples(), t).square().mean().backward()
        self.training.trainees["student"].unlock(True)
        self.training.trainees["fake"].unlock(False)
        made = samples()
        with torch.set_grad_enabled(self.through_scores):
            apart = fake(made, t) - teacher(made, t)
        (apart * made).mean().backward()


def kept(work: Callable[[Batch], None], batch: Batch) -> int:
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
        work(batch)
    return most


def begun(method: Method, nfe: int, steps: int) -> Training:
    settings = TrainSettings(steps=2 * steps, batch=BATCH)
    return Training(method, model(nfe), lambda name: model(nfe), settings, 0, torch.device("cpu"))


def examples() -> Batch:
    """Return what a batch holds for any of the methods."""
    noise, data = (randomness.noises(part, randomness.keys_of(0, 0, BATCH), SHAPE) for part in "ab")
    states = torch.stack([torch.lerp(noise, data, t / NFE) for t in range(NFE + 1)], dim=1)
    return {"noise": noise, "data": data, "states": states}


class Read:
    """Steps whose batches a thread prepares ahead, as the training loop has it."""

    def __init__(self, training: Training) -> None:
        self.training, self.batch = training, examples()
        self.beside: list[float] = []
        """Seconds of the processor that preparing took in the thread."""
        self.waited = 0.0
        """Seconds without a batch."""
        self.reader = Reader(self.prepare, training.settings.steps, print)

    def prepare(self, number: int) -> list[Update]:
        """Return what a step needs."""
        began = time.thread_time()
        keys = randomness.keys_of(0, number * BATCH, (number + 1) * BATCH)
        prepared = self.training.prepare(number, self.batch, keys)
        self.beside.append(time.thread_time() - began)
        return prepared

    def step(self, _: Batch) -> None:
        """Take a step."""
        began = time.perf_counter()
        prepared = self.reader[self.training.step]
        self.waited += time.perf_counter() - began
        self.training.update(prepared, self.reader.go_on)


def measure(name: str, training: Training, bare: Callable[[Batch], None], steps: int) -> None:
    """Print what a step takes, the bare one, and their ratio."""
    read, batch = Read(training), examples()
    with read.reader:
        memory = {work: kept(work, batch) for work in (bare, read.step)}
        spent: dict[Callable[[Batch], None], list[tuple[float, float]]] = {work: [] for work in memory}
        read.waited = 0.0
        for number in range(steps):
            turns = list(spent.items())
            for work, times in turns if number % 2 else reversed(turns):  # who goes first takes less
                began = time.thread_time(), time.perf_counter()
                work(batch)
                times.append((time.thread_time() - began[0], time.perf_counter() - began[1]))
    waited = read.waited / sum(wall for _, wall in spent[read.step])
    mine, other = (median(processor for processor, _ in spent[work]) for work in (read.step, bare))
    pairs = zip(spent[bare], spent[read.step], strict=True)
    ratio, clock = map(median, zip(*((b[0] / m[0], b[1] / m[1]) for b, m in pairs), strict=True))
    print(
        f"{name:16} {1000 * mine:6.1f} ms and {1000 * median(read.beside):.2f} beside it, bare "
        f"{1000 * other:6.1f} ms; ratio {ratio:.3f}, of the clock {clock:.3f}, waiting "
        f"{waited:.1%}; kept {memory[read.step] / 2**20:.0f} MiB against {memory[bare] / 2**20:.0f}",
        flush=True,
    )


def main(steps: int) -> None:
    """Print a line for each method."""
    torch.set_num_threads(1)
    keep_freed_memory()
    one = {"flow_matching": (FlowMatching(), flow_matching), "reflow": (Reflow(), reflow)}
    for name, (method, lose) in (one | {"straighten": (Straighten(), straighten)}).items():
        measure(name, begun(method, NFE, steps), Bare(lose).step, steps)
    for loop in (Accelerated, Fabric):
        try:
            other = loop(flow_matching)
        except ModuleNotFoundError as error:
            print(f"{loop.__name__}: {error.name} is not installed")
            continue
        measure(loop.__name__, begun(FlowMatching(), NFE, steps), other.step, steps)
    for three in (Sim(fake_warmup=0), Dmd(fake_warmup=0)):
        for nfe in (1, NFE):
            training = begun(three, nfe, steps)
            passes = Passes(training, through_scores=isinstance(three, Sim))
            measure(f"{type(three).__name__.lower()}, {nfe} nfe", training, passes.step, steps)
    for variable in ("FEWSTEP_CHANNELS_LAST", "FEWSTEP_COMPILE"):
        plain = Read(begun(FlowMatching(), NFE, steps))
        os.environ[variable] = "on"
        changed = begun(FlowMatching(), NFE, steps)
        del os.environ[variable]
        with plain.reader:
            measure(variable, changed, plain.step, steps)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 200)
