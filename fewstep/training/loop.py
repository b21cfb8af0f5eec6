"""The training loop, shared by all methods; a method supplies the batch preparation and the losses."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fewstep import distributed, power_averages
from fewstep.metrics.monitor import Monitor
from fewstep.model import Model
from fewstep.progress import SILENT, Progress
from fewstep.settings import TrainSettings
from fewstep.training.method import Batch, Method
from fewstep.training.networks import DivergedError, Training
from fewstep.training.phases import phase
from fewstep.training.profile import StepProfiler
from fewstep.training.reader import Reader
from fewstep.training.saver import Saver
from fewstep.training.snapshots import Snapshots
from fewstep.training.state import read_state
from fewstep.training.watch import Watch, Watched

WAIT_SHOWN = 0.05  # share of the time in which a training waits for data, from which on it is shown
REPORT_STEPS = 50  # steps between two reports; fewer in a short training


class BatchSource(Protocol):
    """Batches by step number: fewstep.shards.Batches, or anything else with random access."""

    def __getitem__(self, step: int) -> tuple[Batch, Tensor]:
        """Return this process's share of batch number `step`, and its samples' keys, int64 (n, 2).

        It is called in a thread, a few steps ahead of the training.
        """


@dataclass(frozen=True)
class Trained:
    """The trained model and its losses."""

    model: Model
    """The student in evaluation mode, with averaged weights if the method keeps an average. With a monitor,
    these are the weights of its best look."""
    first_held_out_loss: float
    """The student's loss on the held-out samples before training."""
    held_out_loss: float
    """The trained model's loss on the held-out samples."""
    loss: float
    """The mean training loss of the last steps, of the weights that are not averaged."""
    skipped: int
    """Updates that were skipped because the loss or its gradient was not finite."""
    watched: Watched | None
    """The results of the monitor, if there was one."""
    known_losses: Tensor | None = None
    """The trained model's loss on each sample of `known`, (n,); None without `known`."""
    fresh_losses: Tensor | None = None
    """The loss on as many held-out samples, (n,), with the same times and noise."""


def train(
    method: Method,
    student: Model,
    *,
    load: Callable[[str], Model],
    batches: BatchSource,
    held_out: Iterable[Batch],
    settings: TrainSettings,
    seed: int,
    state: Path,
    known: Iterable[Batch] | None = None,
    monitor: Monitor | None = None,
    profile: Path | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train `student` in place and return it; resume a training that was interrupted.

    Equal arguments give equal weights, whether the run was interrupted or not. `fewstep.training.saver` says
    when it is saved.

    An update whose loss or gradient is not finite is skipped. After ten such updates in a row the training
    fails, unless a monitor has looked: then it ends early, with the weights of the best look.

    Args:
        method: The training method.
        student: The model before training.
        load: Returns a model by the name that the method uses, such as "teacher".
        batches: The training batches, of the method's stream. Under torchrun, after
            `fewstep.distributed.join`, each process's own share of them. If a batch has a "weight", (n,),
            the loop multiplies each sample's loss by it; the method does not receive it.
        held_out: Batches of the same stream that are not used in training, of any sizes; they are asked for
            again each time.
        settings: The settings of the loop.
        seed: Seeds all randomness but that of the batches, such as dropout.
        state: Folder of the resume state; all processes need access to it.
        known: Batches to train on whose losses are compared with held-out ones, to measure memorisation.
        monitor: Evaluates the student at intervals. The training ends with the weights of the best look,
            and stops early when the monitor's patience runs out. Only the first process runs it.
        profile: Folder of the profile that FEWSTEP_PROFILE asks for; one in `state` by default.
        progress: Receives the steps and losses.
        device: The device to train on.

    Returns:
        The trained model and its losses.

    Raises:
        UserError: if the method can't train such a student, the losses stop being finite, `state` belongs
            to another training, or FEWSTEP_CHECKPOINT_SECONDS or FEWSTEP_PROFILE has an impossible value.
    """
    if distributed.rank():
        progress = SILENT
    training = Training(method, student, load, settings, seed, torch.device(device), progress.note)
    watch = Watch(monitor, training, progress)
    saver = Saver(state / "train_state.safetensors", training, watch)
    saved = read_state(saver.file, training.facts, progress.note)
    first = training.evaluate(held_out)
    saver.resume(saved)
    snapshots = Snapshots(state / power_averages.FOLDER, training)
    reporter = _Reporter(training, held_out, first, progress)
    profiled = StepProfiler(profile or state / "profile", training, progress)
    reader = Reader(lambda step: training.prepare(step, *batches[step]), settings.steps, progress.note)
    try:
        with saver, reader:
            while True:
                reporter.before_step()
                watch.before_step()
                snapshots.before_step()
                if training.step == settings.steps or watch.stopped:
                    break
                with profiled.of_step(saver.save):
                    saver.before_step()
                    with reporter.waiting():
                        prepared = reader[training.step]
                    training.update(prepared, reader.go_on)
                reporter.after_step()
            saver.save()
    except DivergedError as error:
        watch.give_up(error)
    loss = training.losses().get("student", first)  # a training that went back to its start has no other
    watched = watch.finish()
    snapshots.finish()
    held_out_loss = reporter.measure(evaluate=True)["held_out"]
    model = training.trainees["student"].whole_result().eval()
    assert isinstance(model, Model)
    trained = Trained(model, first, held_out_loss, loss, training.skipped(), watched)
    if known is None:
        return trained
    known_losses, fresh = (torch.cat(training.evaluated(samples)).cpu() for samples in (known, held_out))
    count = min(len(known_losses), len(fresh))
    return replace(trained, known_losses=known_losses[:count], fresh_losses=fresh[:count])


class _Reporter:
    """Reports losses every few steps, and the held-out loss ten times and at the end."""

    def __init__(
        self, training: Training, held_out: Iterable[Batch], first: float, progress: Progress
    ) -> None:
        self.training, self.held_out, self.first, self.progress = training, held_out, first, progress
        steps = training.settings.steps
        self.reports = range(0, steps, min(REPORT_STEPS, max(1, steps // 40)))
        self.evaluations = range(0, steps, max(1, steps // 10))
        self.last = training.step, time.monotonic()
        self.waited = 0.0
        """Seconds since the last report in which there was no batch yet."""
        self.shown: dict[str, float] = {}
        progress.start("train", steps, done=training.step)

    def before_step(self) -> None:
        """Report if this step is due."""
        step = self.training.step
        if step in self.reports or step in self.evaluations:
            self.training.refuse_divergence()
            self.measure(evaluate=step in self.evaluations)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of this context as that of waiting for a batch."""
        began = time.monotonic()
        with phase("data"):
            yield
        self.waited += time.monotonic() - began

    def after_step(self) -> None:
        """Count the step."""
        self.progress.advance(1, **self.shown)

    def measure(self, *, evaluate: bool) -> dict[str, float]:
        """Report and return the losses, with the held-out loss if `evaluate`."""
        step, then = self.training.step, time.monotonic()
        losses = {"loss" if n == "student" else f"loss_{n}": x for n, x in self.training.losses().items()}
        values = losses | {"learning_rate": self.training.rate}
        if step > self.last[0]:
            values["steps_per_second"] = (step - self.last[0]) / (then - self.last[1])
            values["data_wait"] = wait = self.waited / (then - self.last[1])
            losses |= {"data_wait": round(wait, 2)} if wait >= WAIT_SHOWN else {}
        if evaluate:
            values["held_out"] = self.training.evaluate(self.held_out) if step else self.first
        self.progress.measure(step, **values)
        self.shown, self.last, self.waited = losses, (step, time.monotonic()), 0.0
        return values
