"""Trainings that tests run in processes of their own, to kill them or to have several share one."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from recorded import VARIANTS, FixedBatches, Recorder, run, student_of, teacher
from torch import nn
from watching import gaussian_monitor, watched

from fewstep import distributed
from fewstep.checkpoint import save_model
from fewstep.lora import with_lora
from fewstep.lora_settings import LoraSettings
from fewstep.methods.consistency import Consistency
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.sim import Sim
from fewstep.metrics.features import FeatureNet, Features
from fewstep.settings import TrainSettings
from fewstep.training import state
from fewstep.training.exchange import Exchange
from fewstep.training.loop import Trained


def alone(state: Path) -> None:
    """Train, and save the model beside the state."""
    trained = run(state, settings=TrainSettings(steps=600, batch=8))
    save_model(state / "model", trained.model)


@dataclass(frozen=True)
class StoppingShare(FixedBatches):
    """This rank's share of each batch, until a step at which the process ends."""

    stop: int = -1

    def __getitem__(self, step):
        if step == self.stop:
            raise SystemExit(3)
        return super().__getitem__(step)


def shared(folder: Path, kind: str = "shared", stop: int = -1) -> None:
    """Train as one of several processes with a state in common, or each with its own."""
    device = distributed.join()
    distributed.join()
    trained = run(
        folder / "state" if kind == "shared" else folder / f"state{distributed.rank()}",
        settings=TrainSettings(steps=30, batch=24),
        batches=StoppingShare(24, distributed.rank(), distributed.ranks(), stop),
        progress=(recorder := Recorder()),
        device=device,
    )
    assert bool(recorder.measured) == (distributed.rank() == 0)
    save_model(folder / f"model{distributed.rank()}", trained.model)
    distributed.leave()


METHODS = {"consistency": Consistency(), "sim": Sim(), "endpoint": Endpoint(feature_weight=1.0)}
TOGETHER = [name for name in VARIANTS if name not in ("lagrangian", "by chords", "anyflow")]
"""Variants that two processes train one after the other, as it is their start that takes long."""


def network(name: str) -> nn.Module:
    """Return what a method loads beside its student."""
    if name == "features":
        torch.manual_seed(1)
        return Features(FeatureNet((2,), 0)).requires_grad_(False)
    return teacher()


def of_method(state: Path, name: str, rank: int = 0, ranks: int = 1) -> Trained:
    """Train by a method of several networks, or of several passes through one."""
    method = (METHODS | VARIANTS)[name]
    return run(
        state,
        method=method,
        model=student_of(method),
        load=network,
        settings=TrainSettings(steps=12, batch=16),
        batches=FixedBatches(16, rank, ranks),
        monitor=gaussian_monitor(mean=0.0, looks=3) if name == "consistency" else None,
    )


def of_adapter(state: Path, rank: int = 0, ranks: int = 1) -> Trained:
    """Train an adapter over a student, by a method of several networks that share its weights."""
    method = METHODS["sim"]
    return run(
        state,
        method=method,
        model=with_lora(student_of(method), LoraSettings(rank=2), seed=0),
        load=network,
        settings=TrainSettings(steps=12, batch=16),
        batches=FixedBatches(16, rank, ranks),
    )


def shared_of_adapter(folder: Path) -> None:
    """Train so as one of two processes."""
    distributed.join()
    trained = of_adapter(folder / "state", distributed.rank(), 2)
    save_model(folder / f"model{distributed.rank()}", trained.model)
    distributed.leave()


def shared_of_method(folder: Path, name: str) -> None:
    """Train so as one of two processes, of which each holds a part of all weights."""
    distributed.join()
    trained = of_method(folder / "state", name, distributed.rank(), 2)
    save_model(folder / f"model{distributed.rank()}", trained.model)
    distributed.leave()


def shared_of_variants(folder: Path) -> None:
    """Train by one method after the other as one of two processes."""
    distributed.join()
    for name in TOGETHER:
        trained = of_method(folder / name / "state", name, distributed.rank(), 2)
        save_model(folder / name / f"model{distributed.rank()}", trained.model)
    distributed.leave()


def killed_in_a_save(file: Path) -> None:
    """Die while safetensors writes to a file of a random name, beside the one that it is to become."""

    def killed(tensors: dict, file: Path, facts: dict) -> None:
        file.with_name(f".tmp{os.getpid()}").write_bytes(b"half of it")
        os._exit(9)

    state.save_file = killed
    state.write_state(file, {"a": torch.zeros(2)}, {})


def exchanged(folder: Path) -> None:
    """Compare gradients that are exchanged meanwhile with the means of those of both processes."""
    distributed.join()
    distributed.BUCKET = 20  # numbers of a layer, so that each is a piece
    rank, (layers, alone) = distributed.rank(), (network_of_layers(), network_of_layers())
    exchange = Exchange(list(layers.parameters()))
    assert len(exchange.pieces) == 6
    sent_early = []
    for share in (0, 2, 3):  # passes of an update; after the last, gradients are exchanged
        if share == 3:
            exchange.begin()
        layers(inputs(rank, share)).square().sum().backward()
        sent_early.append(exchange.sent if exchange.on else 0)
    exchange.end()
    assert sent_early[:2] == [0, 0]
    assert sent_early[2] == 5  # the layer that is not used is sent in the end
    for share in (0, 2, 3):
        for each in (0, 1):
            (alone(inputs(each, share)).square().sum() / 2).backward()
    for mine, other in zip(layers.parameters(), alone.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad)
    distributed.leave()


class Layers(nn.Module):
    """Layers of which the first is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.used = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def network_of_layers() -> nn.Module:
    """Return equal layers in each process."""
    torch.manual_seed(2)
    return Layers()


def inputs(rank: int, share: int) -> torch.Tensor:
    """Return what one process sees in one pass."""
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(10 * rank + share))


def joined_late(folder: Path) -> None:
    """Join as one of two processes, of which the second takes a while; the first must wait for it."""
    begin, late = dist.init_process_group, folder / "late"

    def slowly(backend: str) -> None:
        begin(backend)
        if distributed.rank():
            time.sleep(1)
            late.touch()

    dist.init_process_group = slowly
    distributed.join()
    assert late.exists()
    distributed.leave()


def shared_and_watched(folder: Path) -> None:
    """Train as one of two processes, whose monitor looks at what only rank 0 has."""
    distributed.join()
    rank = distributed.rank()
    data = (3.0, 0.0)[rank]  # what rank 1 would look at is nearest at the start
    trained = watched(folder / "state", batches=FixedBatches(8, rank, 2), mean=data, patience=3)
    assert trained.watched.picked.step == 12
    save_model(folder / f"model{rank}", trained.model)
    distributed.leave()
