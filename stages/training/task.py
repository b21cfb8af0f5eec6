"""A training as one process takes part in it: its share of the batches, and what it selects of them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import codec, distributed, randomness
from fewstep.checkpoint import load_model, save_model
from fewstep.conditions import ROW
from fewstep.grids import Grid
from fewstep.metrics import denoiser, features
from fewstep.metrics.monitor import Monitor
from fewstep.model import Model
from fewstep.pairs import mirror_half, select_timesteps
from fewstep.progress import SILENT, Progress
from fewstep.settings import MonitorSettings, TrainSettings
from fewstep.shards import Batches, Column, Shards
from fewstep.training import footprint
from fewstep.training.loop import Trained, train
from fewstep.training.memory import explained
from fewstep.training.method import REAL, Batch, Method
from fewstep.training.networks import Training
from stages.process.device import device
from stages.training import loss_features

MOST_DATA = 10_000  # samples of the training data that a monitor needs
MOST_HELD_OUT = 10_000  # samples whose losses are compared


@dataclass(frozen=True)
class TrainTask:
    """All that a process needs to take part in a training; it can be sent to one."""

    method: Method
    settings: TrainSettings
    source: Path
    select: Callable[[Batch], Batch] | None
    seed: int
    state: Path
    inputs: dict[str, Path]
    monitor: MonitorSettings | None = None
    profile: Path | None = None
    """Folder of the profile that FEWSTEP_PROFILE asks for."""

    @property
    def start(self) -> Path:
        """The model directory in which the processes of a group find the untrained student."""
        return self.state / "start"

    @property
    def end(self) -> Path:
        """The model directory in which the first of them puts the trained one."""
        return self.state / "end"

    def learn(self, student: Model | None = None, progress: Progress = SILENT) -> Trained:
        """Train on this process's share of each batch.

        Raises:
            OutOfMemoryError: if it does not fit into the memory.
        """
        with explained(self.settings.batch // distributed.ranks()):
            return self._learn(student or load_model(self.start, merge=False), progress)

    def measure(self, student: Model) -> footprint.TrainingCosts:
        """Find out what memory the training takes, in one process; the student is of no use afterwards.

        Raises:
            OutOfMemoryError: if the few samples that are tried do not fit into the memory.
        """
        shards = Shards(self.source / "train")
        with explained(max(footprint.SAMPLES)):
            training = Training(
                self.method, student, self.load, self.settings, self.seed, torch.device(device())
            )
            batches = self._batches(shards, student, size=footprint.BATCH, window=1)
            return footprint.measure(training, *batches[0])

    def _selects(self, student: Model, shards: Shards) -> Callable[[Batch, Tensor], Batch]:
        """Return what makes of a stored batch, and its keys, what the method sees."""
        drawn = self.draws_conditions(student, shards)

        def select(batch: Batch, keys: Tensor) -> Batch:
            given = student.conditions.given(batch)
            if drawn:
                given |= student.conditions.drawn("train.conditions", keys)
            return given if self.select is None else self.select(given)

        return select

    def _batches(self, shards: Shards, student: Model, **cut: int) -> "Selected":
        """Return the batches of a set as the method sees them, `cut` as fewstep.shards.Batches has it."""
        real, needs = None, self.method.needs
        if needs.data and needs.stream != "noise":  # whose batches are real data
            data = Shards(self.inputs["data"] / "train")
            given = partial(fields_called, ("data", *student.config.condition_names))
            real = Selected(Batches(data, seed=self.seed, **cut), given, mirror=mirrored(data))
        batches = Batches(shards, seed=self.seed, **cut)
        return Selected(batches, self._selects(student, shards), mirror=mirrored(shards), real=real)

    def _learn(self, student: Model, progress: Progress) -> Trained:
        shards, held_out = Shards(self.source / "train"), Shards(self.source / "held_out")
        known = torch.arange(min(held_out.samples, MOST_HELD_OUT, shards.samples))
        judged = held_out.numbers_of_some(MOST_HELD_OUT, seed=self.seed)
        select = self._selects(student, shards)

        def parts(shards: Shards, numbers: Tensor) -> Parts:
            return Parts(shards, numbers, select, size=self.settings.batch, seed=self.seed)

        share = {"rank": distributed.rank(), "ranks": distributed.ranks()}
        return train(
            self.method,
            student,
            load=self.load,
            batches=self._batches(shards, student, size=self.settings.batch, **share),
            held_out=parts(held_out, judged),
            settings=self.settings,
            seed=self.seed,
            state=self.state,
            known=parts(shards, known) if self.method.needs.stream == "pairs" else None,
            monitor=self.watched_by(self.monitor) if self.monitor else None,
            profile=self.profile,
            progress=progress,
            device=distributed.join(device()),
        )

    def draws_conditions(self, student: Model, shards: Shards) -> bool:
        """Return whether conditions are drawn for each batch, as its noise is: of data without them."""
        needs, told = self.method.needs, student.config.conditions
        if needs.stream != "noise" or needs.data or ROW in shards.fields:
            return False
        return any(name not in shards.fields for name in told)

    def take_part(self, progress: Progress) -> dict[str, Any] | None:
        """Train as one process of a group; the first saves the model and returns what else is known."""
        trained = self.learn(progress=progress)
        if distributed.rank() > 0:
            return None
        save_model(self.end, trained.model)
        return {part.name: getattr(trained, part.name) for part in fields(trained) if part.name != "model"}

    def load(self, name: str) -> Any:
        """Return the model of an input, or "features", the net that a loss compares samples by.

        Raises:
            UserError: see loss_features.read.
        """
        if name != "features":
            return load_model(self.inputs[name])
        assert self.method.needs.features is not None
        return loss_features.read(self.method.needs.features, self.inputs["data"], self.inputs["nets"])

    def watched_by(self, settings: MonitorSettings) -> Monitor:
        """Return the monitor that looks at the student, with its net and the data."""
        net, _ = features.load(self.inputs["nets"], name=denoiser.MONITOR)
        data = Column(Shards(self.inputs["data"] / "train"), "data").some(MOST_DATA, seed=self.seed)
        through = codec.of_prepared(self.inputs["data"])
        return Monitor(net.to(device()), codec.decoded(data, through), settings, self.seed, through)


@dataclass(frozen=True)
class Parts:
    """Samples of a set as a method sees them, in batches that are read each time they are asked for."""

    shards: Shards
    numbers: Tensor
    """Of the samples, int64 (n,)."""
    select: Callable[[Batch, Tensor], Batch]
    size: int
    seed: int
    """Of their keys, which are numbered from 0."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches of `size` samples; the last holds what is left."""
        keys = randomness.keys_of(self.seed, 0, len(self.numbers))
        for numbers, own in zip(self.numbers.split(self.size), keys.split(self.size), strict=True):
            yield self.select(self.shards.take(numbers), own)


class Selected:
    """Batches as a method sees them: part of what they hold, and half of them mirrored if that is asked.

    Of other batches, `real`, each has the data beside its own, if there are any.
    """

    def __init__(
        self,
        batches: Batches,
        select: Callable[[Batch, Tensor], Batch],
        *,
        mirror: bool,
        real: "Selected | None" = None,
    ) -> None:
        self.batches, self.select, self.mirror, self.real = batches, select, mirror, real

    def __getitem__(self, step: int) -> tuple[Batch, Tensor]:
        """Return batch number `step`, and its keys; see fewstep.shards.Batches."""
        batch, keys = self.batches[step]
        selected = self.select(batch, keys)
        if self.mirror:
            selected = mirror_half(selected, keys)
        real = self.real[step][0] if self.real else {}
        return selected | {f"{REAL}{name}": tensor for name, tensor in real.items()}, keys


def mirrored(shards: Shards) -> bool:
    """Return whether half of a set's samples are to be mirrored."""
    return bool(shards.facts.get("mirror", False))


def fields_called(names: Collection[str], batch: Batch, keys: Tensor) -> Batch:
    """Return the fields of a batch with these names, those that it has."""
    return {name: tensor for name, tensor in batch.items() if name in names}


def at_timesteps(stored: list[float], grid: Grid, batch: Batch) -> Batch:
    """Return a batch of trajectories, stored at the times `stored`, with its states at `grid` alone."""
    return batch | {"states": select_timesteps(batch["states"], stored, grid)}


def with_times(stored: list[float], batch: Batch) -> Batch:
    """Return a batch of trajectories with all its states, and their times (n, stored)."""
    states = batch["states"]
    times = torch.tensor(stored, dtype=states.dtype, device=states.device)
    return batch | {"times": times.expand(len(states), -1)}
