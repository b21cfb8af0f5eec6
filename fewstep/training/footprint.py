"""Footprint: the memory that a training takes, by kind, found out with a few samples before it begins."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewstep.training.engine import blocks

if TYPE_CHECKING:
    from fewstep.training.method import Batch
    from fewstep.training.networks import Training

SAMPLES = (2, 4)  # that pass through the networks at a time when it is measured
BATCH = 2 * max(SAMPLES)  # samples that measuring needs
LOOKED_AT = 64  # steps among which one is chosen that updates as many networks as any

HELD = ("weights", "gradients", "moments", "averages")  # by networks, whatever passes through them


@dataclass(frozen=True)
class Engaged:
    """How a process computes a training; what `Engine` says, and what it shares with others."""

    share: int
    """Samples of a batch that this process has."""
    micro_batch: int
    """Samples that pass through the networks at a time."""
    recompute: bool
    shards: int = 1
    """Processes that hold a part of the weights each."""
    offloaded: bool = False
    """Whether these parts are in the memory of the machine."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process, at most, beside code and libraries."""

    weights: int
    """Of all networks, the frozen ones too."""
    gradients: int
    moments: int
    """What the optimisers know of each weight."""
    averages: int
    activations: int
    """All that a pass through the networks and back makes, and what is gathered for it."""
    replaced: int
    """Activations that are gone when the gradients are there, if all samples pass at once."""

    @property
    def total(self) -> int:
        """All of it."""
        held = self.weights + self.gradients + self.moments + self.averages
        return held + self.activations - self.replaced


@dataclass(frozen=True)
class Activations:
    """Bytes of a pass: some in any case, and some for each sample."""

    fixed: float
    each: float

    def of(self, samples: int) -> int:
        """Return those of a pass of so many samples."""
        return round(self.fixed + self.each * samples)


@dataclass(frozen=True)
class TrainingCosts:
    """What was found out about a training, from which its footprint follows for any way to compute it."""

    trained: int
    """Parameters."""
    frozen: int
    """Parameters."""
    held: Footprint
    """That of one process without activations."""
    kept: Activations
    """Those of blocks that keep what they compute, or, where the environment has it so, recompute it."""
    recomputed: Activations
    gathered: int
    """Bytes that a sharded process has of others' weights and gradients at a time, at most."""
    least_gradients: int
    """Bytes of the gradients of the network that has the fewest."""

    def footprint(self, way: Engaged) -> Footprint:
        """Return the footprint of a way to compute the training."""
        passing = min(way.micro_batch, way.share)
        activations = (self.recomputed if way.recompute else self.kept).of(passing)
        at_once = passing == way.share
        parts = {name: getattr(self.held, name) // way.shards for name in HELD}
        return Footprint(
            **parts,
            activations=activations + (self.gathered if way.shards > 1 else 0),
            replaced=min(activations, self.least_gradients // way.shards) if at_once else 0,
        )


def measure(training: Training, batch: Batch, keys: Tensor) -> TrainingCosts:
    """Take a few steps with few samples, and find out what they take.

    The training is of no use afterwards. Where its blocks do not compute again what they computed (see
    `Engine`), that is measured, too.

    Args:
        training: The training, in one process.
        batch: `BATCH` samples of the method's stream.
        keys: Their keys.
    """
    steps = range(max(0, training.settings.steps - LOOKED_AT), training.settings.steps)
    step = max(steps, key=lambda step: len(set(training.method.updates(step))))
    asked = training.engine
    kept = _activations(training, step, batch, keys)
    if not asked.recompute:
        training.engine = replace(asked, recompute=True)
        for module in training.modules.values():
            training.engine.prepare(module)
        recomputed = _activations(training, step, batch, keys)
    else:
        recomputed = kept
    trainees = training.trainees.values()
    trained = [_bytes(trainee.parameters) for trainee in trainees]
    shells = [average for trainee in trainees for average in trainee.every_average]
    networks = [module for module in training.modules.values() if module not in shells]
    weights = _bytes(weight for network in networks for weight in _tensors(network))
    every = {id(p): p.numel() for network in networks for p in network.parameters()}  # adapters share a base
    learnt = sum(p.numel() for trainee in trainees for p in trainee.parameters)
    moments = [
        x for t in trainees for state in t.optimiser.state_dict()["state"].values() for x in state.values()
    ]
    held = Footprint(
        weights=weights,
        gradients=sum(trained),
        moments=_bytes(moments),
        averages=_bytes([x for shell in shells for x in _tensors(shell)] + _all(networks)) - weights,
        activations=0,
        replaced=0,
    )
    return TrainingCosts(
        trained=learnt,
        frozen=sum(every.values()) - learnt,
        held=held,
        kept=kept,
        recomputed=recomputed,
        gathered=max(map(_gathered, networks)),
        least_gradients=min(trained),
    )


def _all(networks: Iterable[nn.Module]) -> list[Tensor]:
    return [tensor for network in networks for tensor in _tensors(network)]


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors, of which several may share one memory."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def _gathered(network: nn.Module) -> int:
    """Return the bytes of what FSDP2 gathers: what is in no block, two blocks, and the gradients of one."""
    whole = _bytes(network.parameters())
    each = [_bytes(block.parameters()) for block in blocks(network)] or [0]
    return whole - sum(each) + 3 * max(each)


def _activations(training: Training, step: int, batch: Batch, keys: Tensor) -> Activations:
    """Return what passes take: what a step of two passes has at most, without the gradients."""
    gradients = sum(_bytes(trainee.parameters) for trainee in training.trainees.values())
    rises: list[int] = []
    for samples in SAMPLES:
        training.engine = replace(training.engine, micro_batch=samples)
        some = {name: tensor[: 2 * samples] for name, tensor in batch.items()}

        def take_step(some: Batch = some, samples: int = samples) -> None:
            training.step = step
            training.take_step(some, keys[: 2 * samples])

        if not rises:
            take_step()  # makes the moments
        for trainee in training.trainees.values():
            trainee.optimiser.zero_grad()
        rises.append(rise(take_step, training.device) - gradients)
    each = max(0.0, (rises[1] - rises[0]) / (SAMPLES[1] - SAMPLES[0]))
    return Activations(fixed=max(0.0, rises[0] - each * SAMPLES[0]), each=each)


def rise(work: Callable[[], None], device: torch.device) -> int:
    """Return how many bytes more than before a device holds while some work is done, at most."""
    gc.collect()  # or what is freed meanwhile would count
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    # torch counts what the processor holds for its profiler alone
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        work()
    with TemporaryDirectory(prefix="fewstep-") as folder:
        profiler.export_chrome_trace(str(Path(folder) / "trace.json"))
        events = json.loads((Path(folder) / "trace.json").read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda event: event["args"]["Ev Idx"]):
        held += change["args"]["Bytes"]
        most = max(most, held)
    return most
